"""What alembic runs to migrate, on the connection that `gateway.store.migrate` opened.

That connection is in a transaction, which is committed there, whole or not at all.
"""

from alembic import context

from gateway.store import log_tables  # noqa: F401 - adds tables
from gateway.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's too, since Python begins no transactions here
    render_as_batch=True,
)
context.run_migrations()

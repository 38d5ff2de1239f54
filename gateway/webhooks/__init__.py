"""Webhooks after the Standard Webhooks specification, for the ends of jobs.

`gateway.store.webhooks` knows who is to be told what; `targets` which addresses may be
called; `secrets` what messages are signed with; `sender` delivers.
"""

"""Commands about circuits: `privacy fhe …`."""

from pathlib import Path
from typing import Annotated

import typer

from privacy.cli.app import AsJson, HomeDir, command
from privacy.cli.output import out, print_json, progress, safe
from privacy.files import default_home


@command("fhe rebuild")
def rebuild(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    store: Annotated[
        Path | None,
        typer.Option(help="Folder of published models; else the bundle's own."),
    ] = None,
    home: HomeDir = None,
    as_json: AsJson = False,
) -> None:
    """Compile a bundle's circuit for this machine, as a new version that you sign."""
    from privacy.publish.rebuild import rebuild as build_anew

    with progress(quiet=as_json) as notify:
        made = build_anew(
            bundle,
            store=store or bundle.resolve().parents[1],
            home=home or default_home(),
            progress=notify,
        )
    m = made.manifest
    if as_json:
        print_json(
            {
                "name": m.name,
                "version": m.version,
                "model_sha256": made.sha256,
                "publisher": made.publisher,
                "path": str(made.root),
            }
        )
        return
    head = f"built [bold]{m.name}/{m.version}[/] for this machine, sha256 {made.sha256}"
    out.print(head, soft_wrap=True)
    out.print(f"[dim]{safe(made.root)}[/]", soft_wrap=True)

"""`stopframe hashes ...`: banks and what is in them."""

import typer

from detector.cli import hashes_fill, hashes_judge, hashes_lists, hashes_match, hashes_show

app = typer.Typer(help="Banks of known hashes.", no_args_is_help=True, rich_markup_mode=None)

app.command("add")(hashes_fill.add)
app.command("import")(hashes_lists.import_list)
app.command("export")(hashes_lists.export)
app.command("match")(hashes_match.match)
app.command("list")(hashes_show.list_banks)
app.command("stats")(hashes_show.stats)
app.command("remove")(hashes_fill.remove)
app.command("disable")(hashes_judge.disable)
app.command("enable")(hashes_judge.enable)
app.command("note")(hashes_judge.write_note)
app.command("confirm")(hashes_judge.confirm)
app.command("deconfirm")(hashes_judge.deconfirm)
app.command("release")(hashes_judge.release)

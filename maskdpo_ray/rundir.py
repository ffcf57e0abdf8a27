"""A run on disk: one folder per stage, content-addressed, each with a manifest.

``run_dir/<stage>/<fingerprint>/`` holds the rows a stage finished (``part-*.parquet``), the rows
that left the graph there (``rejected-*.parquet``) and ``manifest.json``; until the stage is
complete also ``scratch/``, which belongs to its actors. The fingerprint covers the settings the
stage depends on and the fingerprints of the stages before it. So a changed setting finds no folder
for exactly the stages that depend on it, and a setting changed back finds its old results.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import yaml

from maskdpo_ray.config import (
    Config,
    apply_override,
    build_config,
    differing_keys,
    dump_yaml,
    parse_yaml,
)
from maskdpo_ray.digests import (
    MADE,
    MADE_OF,
    NOTHING_NOTED,
    Coming,
    Digests,
    differ,
    fingerprint,
    noted,
    noting,
)
from maskdpo_ray.errors import RowRejected, UserError, first_line
from maskdpo_ray.records import QUESTION_ID, REJECTED_SCHEMA
from maskdpo_ray.storage import DamagedFile, Folder

T = TypeVar("T")
READING = 16  # parts of an object store read at once: it answers many as late as one
MENDED = "remove it and run again with the configuration that the run was made with"
SCRATCH = "scratch"  # removed when a stage of rows is complete
LOCK = "driver.lock"  # held by the one command that works here (driver_lock.py)
FORMAT = 3  # raised when the meaning of stored rows changes: older results are then not reused


@dataclass(frozen=True)
class Block:
    """Rows of one row group of one part that are still to be worked on.

    ``ids`` are values of ``column``.
    """

    part: str
    row_group: int
    ids: list[str]
    column: str = "id"


class StageStore:
    """What one stage finished, with one configuration."""

    def __init__(
        self, folder: Folder, name: str, key: str, settings: dict, schema: pa.Schema
    ) -> None:
        self.folder = folder
        self.name = name
        self.key = key
        self.settings = settings
        self.schema = schema
        # A question may give several rows, which name it; in every other store a row stays a row.
        self._of = QUESTION_ID if QUESTION_ID in schema.names else "id"

    @property
    def scratch(self) -> Folder:
        """What the stage's actors keep for the case that it is not finished this time."""
        return self.folder / SCRATCH

    # -- rows ---------------------------------------------------------------------------------

    def write(
        self,
        ids: list[str],
        rows: list[dict],
        rejected: list[tuple[str, RowRejected]],
        group: int,
        made_of: Digests = NOTHING_NOTED,
    ) -> pa.Table:
        """Make one block durable: ``ids`` came in, ``rows`` and ``rejected`` go out.

        The part is named after the ids that came in, so a block that is worked on again after a
        lost actor replaces itself. Rejected rows are written first: a block whose part is there
        is finished.

        Args:
            made_of: digests of what came in, by id (``fingerprint`` of each row).

        Returns:
            ``rows`` as they are stored.
        """
        block = fingerprint(ids)
        refused = {row_id for row_id, _ in rejected}
        if rejected:
            table = pa.Table.from_pylist(
                [{"id": i, "reason": e.reason, "detail": e.detail} for i, e in rejected],
                REJECTED_SCHEMA,
            )
            of = {i: made_of[i] for i in refused if i in made_of}
            self.folder.write_table(f"rejected-{block}.parquet", noting(table, {MADE_OF: of}))
        stored = pa.Table.from_pylist(rows, self.schema)
        if rows:
            digests = {row["id"]: fingerprint(row) for row in stored.to_pylist()}
            of = {i: digest for i, digest in made_of.items() if i not in refused}
            told = noting(stored, {MADE: digests, MADE_OF: of})
            self.folder.write_table(f"part-{block}.parquet", told, group)
        return stored

    def write_outcomes(
        self,
        ids: list[str],
        outcomes: list[dict | list[dict] | RowRejected],
        group: int,
        made_of: Digests = NOTHING_NOTED,
    ) -> pa.Table:
        """``write``, of one outcome for each id: its row, its rows, or what rejected it."""
        made = (out for out in outcomes if not isinstance(out, RowRejected))
        rows = [row for out in made for row in (out if isinstance(out, list) else [out])]
        both = zip(ids, outcomes, strict=True)
        rejected = [(row_id, out) for row_id, out in both if isinstance(out, RowRejected)]
        return self.write(ids, rows, rejected, group, made_of)

    def block(self, ids: list[str], made_of: Digests = NOTHING_NOTED) -> pa.Table | None:
        """What came of the block of exactly these ids, made of these rows; None where it is not
        finished."""
        block = fingerprint(ids)
        part, rejected = f"part-{block}.parquet", f"rejected-{block}.parquet"
        there = [name for name in (part, rejected) if self.folder.exists(name)]
        if any(self._is_of_others(name, made_of) for name in there):
            return None
        if part in there:
            with self.folder.parquet(part) as file:
                return file.read().cast(self.schema)
        if there and len(self._ids(rejected)) == len(ids):
            return self.schema.empty_table()
        return None

    def _is_of_others(self, part: str, made_of: Digests) -> bool:
        """Whether something in a file was made of another row than one of these."""
        with self.folder.parquet(part) as file:
            notes = noted(file, MADE_OF)
        return any(differ(digest, made_of.get(i)) for i, digest in notes.items())

    def parts(self, *kinds: str) -> list[str]:
        """Names of the files of rows: of finished ones, unless other kinds are named."""
        starts = tuple(f"{kind}-" for kind in kinds or ("part",))
        return [n for n in self.folder.names() if n.startswith(starts) and n.endswith(".parquet")]

    def finished(self) -> tuple[set[str], set[str]]:
        """Ids that came in and gave a row, and ids that were rejected. An id in both gave one."""
        done, rejected = (
            {i for ids in self._of_each(self._ids, self.parts(kind)) for i in ids}
            for kind in ("part", "rejected")
        )
        return done, rejected - done

    def coming(self, column: str = "id") -> Coming:
        """What the next stage gets from here: values of ``column``, by ``id`` with the digest of
        each row; None where it is not noted."""

        def read(part: str) -> Coming:
            with self.folder.parquet(part) as file:
                notes = noted(file, MADE) if column == "id" else {}
                ids = file.read(columns=[column])[column].to_pylist()
                return {value: notes.get(value) for value in ids}

        found: dict[str, str | None] = {}
        for part in reversed(self._of_each(read, self.parts())):  # the first of two is read
            found |= part
        return found

    @property
    def content(self) -> str:
        """A digest of the finished rows."""
        return fingerprint(sorted(self.coming().items()))

    def held(self) -> dict[str, Coming]:
        """By file, finished or rejected: the rows that came in, each with the digest of what it
        was then; None where it is not noted."""

        def read(part: str) -> Coming:
            column = self._of if part.startswith("part-") else "id"
            with self.folder.parquet(part) as file:
                notes = noted(file, MADE_OF)
                ids = file.read(columns=[column])[column].to_pylist()
                return {row_id: notes.get(row_id) for row_id in ids}

        parts = self.parts("part", "rejected")
        return dict(zip(parts, self._of_each(read, parts), strict=True))

    def count(self, part: str) -> int:
        """How many rows that came in are finished or rejected in this file."""
        if self._of == "id" or not part.startswith("part-"):
            with self.folder.parquet(part) as file:
                return file.metadata.num_rows
        return len(set(self._ids(part)))

    def _ids(self, part: str) -> list[str]:
        """Of the rows that came in, for those of a file."""
        column = self._of if part.startswith("part-") else "id"
        return self._column(column, part)

    def _column(self, column: str, part: str) -> list[str]:
        with self.folder.parquet(part) as file:
            return file.read(columns=[column])[column].to_pylist()

    def blocks(self, without: set[str], column: str = "id") -> list[Block]:
        """Finished rows except those whose ``column`` is in ``without``, each value once."""
        seen, blocks, parts = set(without), [], self.parts()
        found = self._of_each(partial(self._groups, column), parts)
        for part, groups in zip(parts, found, strict=True):
            for group, ids in enumerate(groups):
                new = [i for i in dict.fromkeys(ids) if i not in seen]
                seen.update(new)
                if new:
                    blocks.append(Block(part, group, new, column))
        return blocks

    def _groups(self, column: str, part: str) -> list[list[str]]:
        """Values of a column, row group by row group."""
        with self.folder.parquet(part) as file:
            groups = range(file.num_row_groups)
            return [file.read_row_group(n, columns=[column])[column].to_pylist() for n in groups]

    def read_block(self, block: Block) -> pa.Table:
        with self.folder.parquet(block.part) as file:
            table = file.read_row_group(block.row_group)
        ids = table[block.column].to_pylist()
        return table.take([ids.index(i) for i in block.ids]).cast(self.schema)

    def lacks_rows(self) -> bool:
        """Whether rows that the manifest counts are gone: somebody removed a file."""
        counted = (self.manifest() or {}).get("counts", {}).get("out", 0)
        return len(self.finished()[0]) < counted

    def _of_each(self, read: Callable[[str], T], parts: list[str]) -> list[T]:
        """What ``read`` finds in each of these parts."""
        if self.folder.is_local:  # answers at once: threads would only get in each other's way
            return [read(part) for part in parts]
        with ThreadPoolExecutor(READING) as pool:
            return list(pool.map(read, parts))

    def drop_damaged(self, whole: bool = False) -> list[str]:
        """Remove the files that cannot be read, so that their rows are done again.

        A stage that was complete then is not any more. Files of a stage that is not complete are
        read whole; of a complete stage only the names of its rows.

        Args:
            whole: read everything in any case. A cache is small, and what its next reader needs.

        Returns:
            One line for each file.
        """
        columns = ["id"] if self.complete and not whole else None
        parts = self.parts("part", "rejected")
        damages = self._of_each(partial(self._damage, columns), parts)
        found = {part: damage for part, damage in zip(parts, damages, strict=True) if damage}
        if found and self.complete:
            self.folder.write_json("manifest.json", self.manifest() | {"state": "running"})
        for part in found:
            self.folder.remove(part)
        return list(found.values())

    def settle(self, coming: Coming, seconds: float, shared: bool = False) -> str | None:
        """Complete a stage of rows (``finish_rows``), if all that it holds is of what comes in.

        Else somebody removed a file of a stage before this one, and what was made anew is another
        row, or was rejected: the files with what was made of the old one are removed, so that their
        rows are done again.

        Args:
            coming: all that comes in (``coming`` of the stage before).

        Returns:
            What was removed in words, or None where the stage is complete.
        """
        held = self.held()
        if not shared and (line := self._drop_outdated(held, coming)):
            return line
        self._finish_rows(held, set(coming), seconds, shared)
        return None

    def _drop_outdated(self, held: Mapping[str, Coming], coming: Coming) -> str | None:
        gone, changed, again = set(), set(), set()
        for part, rows in held.items():
            left = rows.keys() - coming.keys()
            other = {i for i in rows.keys() - left if differ(rows[i], coming[i])}
            if not left and not other:
                continue
            if self.complete:
                self.folder.write_json("manifest.json", self.manifest() | {"state": "running"})
            self.folder.remove(part)
            gone, changed, again = gone | left, changed | other, again | set(rows)
        if not again:
            return None
        said = [
            f"{len(ids)} rows of before {words} ({', '.join(sorted(ids)[:3])})"
            for ids, words in (
                (gone, "are no longer there to work on"),
                (changed, "are others now"),
            )
            if ids
        ]
        return (
            f"{self.name}: {' and '.join(said)}: what was made of them is removed; "
            f"{len(again - gone)} in the same files are done again"
        )

    def _damage(self, columns: list[str] | None, part: str) -> str | None:
        try:
            with self.folder.parquet(part) as file:
                for group in range(file.num_row_groups):
                    file.read_row_group(group, columns=columns)
        except DamagedFile as error:
            return f"{str(error).partition('): ')[0]}): removed, its rows are done again"
        return None

    def rows(self, columns: list[str] | None = None) -> Iterator[dict]:
        """Every finished row once, block by block; of these columns, ``id`` among them, or all."""
        schema = pa.schema([f for f in self.schema if columns is None or f.name in columns])
        seen: set[str] = set()
        for part in self.parts():
            with self.folder.parquet(part) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=schema.names).cast(schema)
                    for row in table.to_pylist():
                        if row["id"] not in seen:
                            seen.add(row["id"])
                            yield row

    def rejected_rows(self) -> list[dict]:
        done, _ = self.finished()
        return [row for i, row in sorted(self._rejections().items()) if i not in done]

    def why_rejected(self) -> str:
        """How many rows were rejected for each reason, and what was said of the first."""
        of_reason: dict[str, list[str]] = {}
        for row in self.rejected_rows():
            of_reason.setdefault(row["reason"], []).append(row["detail"])
        return "; ".join(
            f"{len(details)} rejected ({reason}){', first' * (len(details) > 1)}: {details[0]}"
            for reason, details in of_reason.items()
        )

    def _rejections(self) -> dict[str, dict]:
        def read(part: str) -> list[dict]:
            with self.folder.parquet(part) as file:
                return file.read().to_pylist()

        return {
            row["id"]: row for rows in self._of_each(read, self.parts("rejected")) for row in rows
        }

    # -- manifest -----------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any] | None:
        if not self.folder.exists("manifest.json"):
            return None
        try:
            return self.folder.read_json("manifest.json")
        except ValueError as error:
            raise DamagedFile(
                f"{self.folder}/manifest.json is damaged ({error}): remove it and run the command "
                "of its stage, or `maskdpo run`, again; finished rows stay"
            ) from None

    @property
    def begun(self) -> bool:
        """Whether there is something of it."""
        return self.folder.exists("manifest.json")

    @property
    def complete(self) -> bool:
        manifest = self.manifest()
        return manifest is not None and manifest["state"] == "complete"

    def begin(self, versions: dict[str, str], **more: Any) -> None:
        """Write the manifest of a stage that starts or resumes."""
        before = self.manifest() or {}
        self.folder.write_json(
            "manifest.json",
            {
                "stage": self.name,
                "fingerprint": self.key,
                "format": FORMAT,
                "settings": self.settings,
                "versions": versions,
                "state": "running",
                "seconds": before.get("seconds", 0.0),
                **more,
            },
        )

    def finish(self, counts: dict[str, Any], seconds: float, **more: Any) -> None:
        """Mark the stage complete; ``seconds`` of this session are added to earlier ones'."""
        manifest = self.manifest() or {}
        manifest |= {
            "state": "complete",
            "counts": counts,
            "seconds": round(manifest.get("seconds", 0.0) + seconds, 3),
            **more,
        }
        self.folder.write_json("manifest.json", manifest)

    def summary(self) -> str:
        """One line of a complete stage: what came in, what went out, what was dropped and why."""
        counts = dict((self.manifest() or {}).get("counts", {}))
        rejected = counts.pop("rejected", {})
        parts = [f"{n} {what}" for what, n in counts.items()]
        parts += [f"{n} rejected ({reason})" for reason, n in sorted(rejected.items())]
        return f"{self.name}: {', '.join(parts)}"

    def finish_rows(self, ids_in: Iterable[str], seconds: float, shared: bool = False) -> None:
        """Complete a stage of rows once every id that came in is accounted for.

        The manifest of a stage that is complete with these counts already stays as it is. A
        ``shared`` store, a cache, may hold rows that other runs asked for.

        Raises:
            RuntimeError: rows were lost or invented. This is a fault of the graph, not of the
                input, and the run must not go on as if nothing had happened.
        """
        self._finish_rows(self.held(), set(ids_in), seconds, shared)

    def _finish_rows(
        self, held: Mapping[str, Coming], expected: set[str], seconds: float, shared: bool
    ) -> None:
        done, rejected = (
            {i for part, ids in held.items() if part.startswith(kind) for i in ids}
            for kind in ("part-", "rejected-")
        )
        rejected -= done
        if shared:
            done, rejected = done & expected, rejected & expected
        if done | rejected != expected:
            lost, extra = expected - done - rejected, (done | rejected) - expected
            raise RuntimeError(
                f"stage {self.name}: {len(lost)} rows lost {sorted(lost)[:3]}, "
                f"{len(extra)} unknown {sorted(extra)[:3]} in {self.folder}"
            )
        rejections = self._rejections() if rejected else {}
        reasons = Counter(rejections[row_id]["reason"] for row_id in sorted(rejected))
        counts = {"in": len(expected), "out": len(done), "rejected": dict(reasons)}
        if self._of != "id":
            found = self._of_each(partial(self._column, "id"), self.parts())
            made = {i for ids in found for i in ids}
            counts |= {"pairs": len(made)} if len(made) != len(done) else {}
        self.folder.remove_folder(SCRATCH)
        if not self.complete or self.manifest()["counts"] != counts:
            self.finish(counts, seconds)


class RunDir:
    """A run directory, opened for one configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = Folder(config.run_dir)

    def claim(self, rerun: bool = False, redone: Callable[[], list[str]] | None = None) -> None:
        """Take the directory for this configuration, or refuse one that another configuration made.

        Args:
            redone: names the stages with results that this configuration would make anew; without
                any, and where it raises ``UserError``, every other configuration is refused.

        Raises:
            UserError: names the keys that differ and how to go on.
        """
        # A command that failed before it made anything has not taken the directory.
        made = set(self.folder.names()) - {"config.yaml", LOCK}
        if made and self.folder.exists("config.yaml") and not rerun:
            self._refuse_another(redone)
        resolved = dump_yaml(self.config.saved())
        self.folder.write("config.yaml", resolved.encode())

    def look(self) -> None:
        """Check that the directory is this configuration's, and change nothing.

        Raises:
            UserError: it holds no run, or that of another configuration.
        """
        if not self.folder.exists("config.yaml"):
            raise UserError(f"{self.folder} holds no run yet: `maskdpo run` makes one")
        self._refuse_another()

    def results(self, name: str) -> list[str]:
        """Fingerprints under which a stage has begun."""
        stage = self.folder / name
        return [key for key in stage.names() if (stage / key).exists("manifest.json")]

    def _refuse_another(self, redone: Callable[[], list[str]] | None = None) -> None:
        stored = _saved(self.folder)
        theirs = build_config(stored, f"{self.folder}/config.yaml")
        if not (keys := differing_keys(self.config.identity(), theirs.identity())):
            return
        stages = "the stages that depend on them"
        if redone:
            try:
                if not (names := redone()):
                    return
                stages = f"the stages that depend on them ({', '.join(names)})"
            except UserError:  # what names the stages is not there: nobody knows
                pass
        raise UserError(
            f"{self.folder} was made with another configuration; these keys differ: "
            f"{', '.join(keys)}. Choose another run_dir, or pass --rerun to redo exactly {stages}"
        )

    def store(
        self, name: str, settings: dict, schema: pa.Schema, *upstream: StageStore
    ) -> StageStore:
        """The store of one stage under these settings, after these stages."""
        key = fingerprint(FORMAT, name, settings, [stage.key for stage in upstream])
        return StageStore(self.folder / name / key, name, key, settings, schema)


def _saved(folder: Folder) -> dict[str, Any]:
    """The settings that a run directory was made with."""
    try:
        tree = parse_yaml(folder.read("config.yaml").decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}/config.yaml is damaged: {first_line(error)}; {MENDED}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{folder}/config.yaml is damaged: it holds no settings; {MENDED}")
    return tree


def read_run_config(path: str, overrides: list[str]) -> Config | None:
    """The configuration saved in a run directory, or None where ``path`` is none.

    Raises:
        UserError: an override would change what the directory holds.
    """
    folder = Folder(path)
    if not folder.exists("config.yaml"):
        return None
    source = f"{path}/config.yaml"
    # The directory may have been moved: it is where it was found.
    tree = {**_saved(folder), "run_dir": path}
    stored = build_config(tree, source)
    for override in overrides:
        apply_override(tree, override)
    config = build_config(tree, source)
    keys = differing_keys(config.identity(), stored.identity())
    if keys or config.run_dir != path:
        keys = keys or ["run_dir"]
        raise UserError(
            f"{path} is a run directory: its {', '.join(keys)} stand; to change them, give the "
            "configuration file with overrides and --rerun"
        )
    return config

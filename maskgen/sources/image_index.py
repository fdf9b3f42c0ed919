"""Image reference → where the image lies: files and the members of archives under the image root."""

import posixpath
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from maskgen.config import Source
from maskgen.errors import MaskgenError, SampleError
from maskgen.file_kinds import LFS_POINTER, no_picture
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sample import ArchiveMember
from maskgen.sources.archive_parts import may_be_part, parted
from maskgen.sources.gzip_archives import GzipArchives, is_gzip
from maskgen.sources.image_folder import ImageFolder
from maskgen.sources.image_names import folded, form, normal, printable, renamed, writable
from maskgen.sources.match_notes import MatchNotes
from maskgen.sources.member_table import MemberTable, Place
from maskgen.sources.members import Kind, Member, Oddities
from maskgen.sources.rows import place
from maskgen.sources.tar_members import tar_members
from maskgen.sources.zip_members import LOCAL_HEADER, data_start, zip_members

_READ = re.compile(r"(.*)\.(?:tar|tar\.gz|tgz|zip)", re.IGNORECASE)
_NOT_READ = re.compile(r".*(\.(?:tar\.bz2|tbz2?|tar\.xz|txz|tar\.zst|tar\.lz4|7z|rar))", re.IGNORECASE)
_LIKE_ARCHIVE = re.compile(r".+\.(?:tar|tgz|zip)(?![a-z0-9])", re.IGNORECASE)
_BESIDE_ARCHIVE = re.compile(
    r".*\.(?:md5|sha\d+|asc|sig|json|txt|csv|idx|log|html?|jpe?g|png|webp)", re.IGNORECASE
)
_FILES = -1  # the number of the folder itself among the archives
_REMOTE_CALLS = 32

_SAME, _OTHER_FORM, _OTHER_CASE = range(3)
_Fit = tuple[int, str, Place]  # how alike, the path that a reference may call the place, the place


class LocatedImage(NamedTuple):
    """An image that is there: `member` is None for a file that has the reference's own name.

    A file under another name is a member that begins at 0 of the "archive" that it is itself.
    """

    member: ArchiveMember | None


class ImageIndex:
    """Finds images under the root. Use as a context manager: the index is a temporary file.

    A member answers to its own name, to "<archive's stem>/<name>", and to both after the archive's folder; a
    file in the folder comes first, then the first archive by name. What is not found so is looked for in
    another Unicode form, in another case if `source.ignore_case` says so, under a prefix that the reference
    lacks, and without one that it carries; it counts where one image only fits. `notes` says what was found
    so, and what was not read.
    """

    def __init__(
        self,
        data: str,
        source: Source,
        kept: Store | None = None,
        say: Callable[[str], None] | None = None,
        most_read_through: int | None = None,
    ):
        """`kept`: where what is known of .tar.gz archives stays for the next time; `say` tells its price.
        `most_read_through`: bytes of .tar.gz beyond which none that is not known yet is read through.

        MaskgenError if there is no image folder. An archive that cannot be read is a note.
        """
        self._source = source
        self._folder = ImageFolder(place(data, source.images), source.allow_links_to)
        self._temporary = tempfile.TemporaryDirectory(prefix="maskgen-")
        self._gzips = GzipArchives(self._folder, kept or Store(self._temporary.name))
        self._table = MemberTable(Path(self._temporary.name, "members.sqlite"))
        self._places: dict[str, dict[int, str]] = {"": {}}
        self._odd = Oddities()
        self._damaged: list[str] = []
        self._matches = MatchNotes()
        self._files_are_listed = False
        self._archives = self._archive_names()
        if most_read_through is not None:
            self._leave_out_unknown(most_read_through)
        gzips = [name for name in self._archives if is_gzip(name)]
        self._gzips.prepare(gzips, say or (lambda _: None))
        for number, name in enumerate(self._archives):
            self._add(number, name)
        self._table.finish()

    def __enter__(self) -> "ImageIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()
        self._temporary.cleanup()

    def has(self, reference: str) -> bool:
        """Whether the image is there. `find` asks for many at a time, which a remote root answers sooner."""
        return self.find([reference])[0] is not None

    def find(self, references: Sequence[str]) -> list[LocatedImage | None]:
        """Where each image lies; None where it is nowhere, or where it cannot be told which of several it is.

        Asks a remote root about each of them, a few at a time.
        """
        names = [self._name(reference) for reference in references]
        there = self._exist(names)
        return [self._find(*asked) for asked in zip(references, names, there, strict=True)]

    def why_not(self, reference: str) -> SampleError:
        """Of an image that `find` did not find: PATH_ESCAPE if a link to it may not be followed, else
        IMAGE_MISSING."""
        if self._folder.is_refused(self._name(reference)):
            return SampleError(Outcome.PATH_ESCAPE, "a link leads out of the image folder")
        return SampleError(Outcome.IMAGE_MISSING, "there is no such file")

    def forget_matches(self) -> None:
        """Begin anew to count, for `notes`, what was found under another name."""
        self._matches = MatchNotes()

    @property
    def notes(self) -> list[str]:
        """What to tell the user: what was not read, and what was found under another name."""
        odd = [
            f"{count:,} {kind}"
            + (f", the first {printable(first)}" if (first := self._odd.first[kind]) else "")
            for kind, count in sorted(self._odd.counts.items())
        ]
        return [*self._damaged, *odd, *self._matches.lines()]

    # Building

    def _archive_names(self) -> list[str]:
        """The archives below the root, parted ones by the name of the whole."""
        names, candidates = set(), []
        for name in self._folder.files(self._odd):
            if _READ.fullmatch(name) and posixpath.basename(name).startswith("."):
                self._odd.add("hidden archives that are not read", name)
            elif _READ.fullmatch(name):
                names.add(writable(name))
            elif match := _NOT_READ.fullmatch(name):
                self._odd.add(f"{match[1].lower()} files that are not read: unpack them", name)
            elif may_be_part(name) or _LIKE_ARCHIVE.match(posixpath.basename(name)):
                candidates.append(name)
        whole = parted(writable(name) for name in candidates if may_be_part(name))
        read = {part for parts in whole.values() for part in parts.names}
        for name in candidates:
            if writable(name) not in read and not _BESIDE_ARCHIVE.fullmatch(name):
                self._odd.add("files that look like archives or parts of one and are not read", name)
        for name, parts in whole.items():
            if parts.lacks and name not in names:
                self._damaged.append(f"{printable(name)} is read up to {parts.lacks}, which is missing")
        return [name for name in sorted(names | whole.keys()) if not self._is_pointer(name)]

    def _is_pointer(self, name: str) -> bool:
        try:
            file, _ = self._folder.open_archive(name)
            with file:
                if file.read(len(LFS_POINTER)) != LFS_POINTER:
                    return False
        except Exception:  # each storage has errors of its own; reading it will say this one
            return False
        self._damaged.append(
            f"{printable(name)} is a git-lfs pointer: git lfs pull brings the archive itself"
        )
        return True

    def _leave_out_unknown(self, most: int) -> None:
        """Leave out the .tar.gz archives that would have to be read through, if they are too large."""
        unknown = self._gzips.unknown([name for name in self._archives if is_gzip(name)])
        size = sum(unknown.values())
        if size > most:
            self._archives = [name for name in self._archives if name not in unknown]
            self._damaged.append(
                f"{len(unknown):,} .tar.gz archives ({size / 1e9:,.1f} GB) are not looked into: "
                "maskgen plan --out OUT reads them through once"
            )

    def _add(self, number: int, name: str) -> None:
        match = _READ.fullmatch(name)
        assert match is not None
        folder, stem = posixpath.split(match[1])
        for place_name in ("", stem, folder, posixpath.join(folder, stem)):
            self._places.setdefault(folded(place_name), {})[number] = place_name
        odd = Oddities()
        try:
            members = self._members(name, odd)
            first = list(islice(members, 1))
            self._table.add(number, chain(first, members))
            if not first and not odd.counts:
                self._damaged.append(f"{printable(name)} holds no file{self._instead(name)}")
        except (sqlite3.Error, MaskgenError):
            raise
        except Exception as error:  # each storage has errors of its own
            reason = error.reason if isinstance(error, SampleError) else str(error)
            odd.add(f"damage that ends it ({printable(reason)})")
        if odd.counts:
            told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(odd.counts.items()))
            self._damaged.append(f"in {printable(name)}, left out: {told}")

    def _instead(self, name: str) -> str:
        """What an archive is that is none, if that is known."""
        file, _ = self._folder.open_archive(name)
        with file:
            kind = no_picture(file.read(1024))
        return f": it is {kind}" if kind else ""

    def _members(self, name: str, odd: Oddities) -> Iterator[Member]:
        if is_gzip(name):
            yield from self._gzips.members(name, odd)
            return
        file, _ = self._folder.open_archive(name)
        with file:
            yield from (zip_members if name.lower().endswith(".zip") else tar_members)(file, odd)

    def _list_files(self) -> None:
        """Put the folder's own files into the table, the first time that a name is not found as it is."""
        if not self._files_are_listed:
            self._files_are_listed = True
            self._places[""][_FILES] = ""
            self._table.add_files(_FILES, self._folder.files(Oddities()))

    # Looking up

    def _name(self, reference: str) -> str:
        """The path to look for; "" for a reference that cannot be one below the root."""
        name = normal(renamed(reference, self._source.rename))
        return "" if name.startswith(("/", "..")) or "\0" in name else name

    def _exist(self, names: list[str]) -> list[bool]:
        """Whether the folder itself has each of the files."""
        if self._folder.is_local:
            return [bool(name) and self._folder.exists(name) for name in names]
        with ThreadPoolExecutor(_REMOTE_CALLS) as pool:
            return list(pool.map(lambda name: bool(name) and self._folder.exists(name), names))

    def _find(self, reference: str, name: str, is_there: bool) -> LocatedImage | None:
        if not name:
            return None
        if is_there:
            unchanged = name == normal(reference)
            return LocatedImage(None if unchanged else self._member(Place(_FILES, name, 0, 0, Kind.PLAIN)))
        for found in self._exact(name):
            if member := self._member(found):
                return LocatedImage(member)
        if self._folder.is_refused(name):
            self._matches.add("behind links that lead out of the folder: see source.allow_links_to", "", name)
            return None
        self._list_files()
        return self._find_alike(name)

    def _exact(self, name: str) -> Iterator[Place]:
        """Members that answer to the name as it is, the first by rule first."""
        for archives, rest in self._readings(name):
            called = [
                found
                for found in self._table.called(rest)
                if found.archive in archives and posixpath.join(archives[found.archive], found.path) == name
            ]
            yield from sorted(called, key=lambda found: found.archive)
            for number in sorted(self._table.linked & archives.keys()):
                target = self._table.resolved(number, rest)
                if target and target != rest:
                    yield from self._table.at(number, target)

    def _readings(self, name: str) -> Iterator[tuple[dict[int, str], str]]:
        """Every way to read a name as one of an archive's names and a path in it: (archives, path)."""
        parts = name.split("/")
        for cut in range(len(parts)):
            archives = self._places.get(folded("/".join(parts[:cut])))
            if archives:
                yield archives, "/".join(parts[cut:])

    def _find_alike(self, name: str) -> LocatedImage | None:
        """The one image that a name which is not there as it is can mean."""
        for kind, fits in self._ways(name):
            fitting = list(fits)
            best = min((level for level, _, _ in fitting), default=None)
            alike = sorted(
                ((found.archive, path, found) for level, path, found in fitting if level == best),
                key=lambda fit: fit[:2],
            )
            if not alike:
                continue
            if len({path for _, path, _ in alike}) > 1 or not _is_one([found for _, _, found in alike]):
                several = " or ".join(sorted({self._address(found) for _, _, found in alike})[:2])
                self._matches.add("not found, since several fit: see source.rename", several, name)
                return None
            _, path, found = alike[0]
            if member := self._member(found):
                self._matches.add(kind, _difference(name, path), name)
                return LocatedImage(member)
        self._hint(name)
        return None

    def _ways(self, name: str) -> Iterator[tuple[str, Iterator[_Fit]]]:
        """What a name can mean, the most alike first: for each way all that fits.

        At least one folder must be the same besides the file's own name: 1.jpg is in many a data set. And a
        prefix is dropped only where nothing is called so: else the folder that it names is there, and lacks
        the file.
        """
        yield "found in another spelling", self._spelt_otherwise(name)
        parts = name.split("/")
        if len(parts) > 1:
            yield "found under a prefix that rows lack", self._below_a_prefix(name)
        top = folded(parts[0])
        if top in self._table.tops or top in self._places or self._folder.has_folder(parts[0]):
            return
        for cut in range(1, len(parts) - 1):
            yield "found without a prefix that rows carry", self._spelt_otherwise("/".join(parts[cut:]))

    def _spelt_otherwise(self, name: str) -> Iterator[_Fit]:
        for archives, rest in self._readings(name):
            for found in self._table.called(rest):
                if found.archive in archives:
                    path = posixpath.join(archives[found.archive], found.path)
                    level = self._level(name, path)
                    if level is not None:
                        yield level, path, found

    def _below_a_prefix(self, name: str) -> Iterator[_Fit]:
        count = len(name.split("/"))
        for found in self._table.ending_in(name):
            level = self._level(name, "/".join(found.path.split("/")[-count:]))
            if level is not None:
                yield level, found.path, found

    def _level(self, reference: str, name: str) -> int | None:
        """How alike two names are; None where they are not, or not so that it counts."""
        if reference == name:
            return _SAME
        if _fits(form(reference), form(name)):
            return _OTHER_FORM
        alike = self._source.ignore_case and _fits(folded(reference), folded(name))
        return _OTHER_CASE if alike else None

    def _hint(self, name: str) -> None:
        """Where a file of the name's last part alone lies elsewhere, say what source.rename could be told."""
        found = self._table.ending_in(posixpath.basename(name))
        if len(found) == 1:
            way = f"{posixpath.dirname(name)}/ may be {posixpath.dirname(self._address(found[0]))}/"
            self._matches.add("not found, but one file of that name: see source.rename", way, name)

    def _member(self, found: Place) -> ArchiveMember | None:
        """The place as the plan says it; None if it cannot be read."""
        try:
            if found.archive == _FILES:
                name = writable(found.path)
                file, size = self._folder.open(name)
                with file:
                    return ArchiveMember(name, 0, file.seek(0, 2) if size is None else size, False)
            name, start = self._archives[found.archive], found.start
            if found.kind != Kind.PLAIN:  # only now: else the headers of all members would be read
                file, _ = self._folder.open_archive(name)
                with file:
                    file.seek(start)
                    data_at = data_start(file.read(LOCAL_HEADER.size), start)
                if data_at is None:
                    return None
                start = data_at
            return ArchiveMember(name, start, found.size, found.kind == Kind.ZIP_DEFLATED)
        except (SampleError, OSError):
            return None

    def _address(self, found: Place) -> str:
        return found.path if found.archive == _FILES else f"{self._archives[found.archive]}: {found.path}"


def _is_one(found: list[Place]) -> bool:
    """Whether places of one path hold one picture: a file in the folder, or members of one size."""
    return any(one.archive == _FILES for one in found) or len({one.size for one in found}) == 1


def _fits(reference: str, name: str) -> bool:
    """Whether they are the same, but for letters that the annotation file had lost (U+FFFD)."""
    if "\ufffd" not in reference:
        return reference == name
    return re.fullmatch(".".join(re.escape(piece) for piece in reference.split("\ufffd")), name) is not None


def _difference(name: str, path: str) -> str:
    """The prefix that one of two paths has before the other; "" where they have as many parts."""
    longer, shorter = sorted((name.split("/"), path.split("/")), key=len, reverse=True)
    return "/".join(longer[: len(longer) - len(shorter)])

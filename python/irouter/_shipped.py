"""Files that the package ships by name, and files like them by path."""

import dataclasses
from importlib.resources.abc import Traversable
from pathlib import Path

from irouter._core import IrouterError
from irouter._names import unknown


@dataclasses.dataclass(frozen=True, slots=True)
class NamedText:
    """What a name stands for.

    Attributes:
        name: The name, without the suffix.
        where: Name of the file, for errors.
        text: What is in it.
    """

    name: str
    where: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class ShippedFiles:
    """A folder of the package with files of one kind.

    Attributes:
        kind: What they are, such as `scenario`.
        folder: The folder.
        suffix: How their names end, such as `.toml`; what ends so and is given by a caller is a path.
    """

    kind: str
    folder: Traversable
    suffix: str

    def names(self) -> list[str]:
        """Names of the shipped files, without the suffix."""
        files = [file.name for file in self.folder.iterdir()]
        return sorted(name.removesuffix(self.suffix) for name in files if name.endswith(self.suffix))

    def read(self, name: str | Path) -> NamedText:
        """Reads a shipped file by name, or another by path.

        Raises:
            IrouterError: For a file that does not exist, or an unknown name.
        """
        if str(name).endswith(self.suffix):
            path = Path(name)
            if not path.is_file():
                raise IrouterError(f"no {self.kind} file {path}")
            return NamedText(path.stem, path.name, path.read_text(encoding="utf-8"))
        shipped = self.names()
        if name not in shipped:
            listing = f"shipped are {', '.join(shipped)}; a file ends in {self.suffix}"
            raise unknown(self.kind, str(name), shipped, listing)
        file = f"{name}{self.suffix}"
        return NamedText(str(name), file, (self.folder / file).read_text(encoding="utf-8"))

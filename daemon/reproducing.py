"""`clearline reproduce`: where a line keeps its evidence, and by what models it is scored again."""

from pathlib import Path
from typing import Any

from daemon import config
from daemon.errors import ConfigurationError


def reproduce_event(event_id: str, path: Path, device: str) -> dict[str, Any]:
    """Imports torch. Raises clearline.Error."""
    settings = config.load(path)
    folder = settings.evidence.folder
    if folder is None:
        raise ConfigurationError(
            "is not named: this line keeps no pictures", file=path, key="evidence.folder"
        )
    from training.reproduce import reproduce

    recipes = {
        name: (recipe.bundle, recipe.calibration_path) for name, recipe in settings.recipes.items()
    }
    return reproduce(event_id, folder, recipes, device)

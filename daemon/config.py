"""The configuration: a TOML file, every key of it also an environment variable.

`CLEARLINE_CAMERAS__LEFT__DEADLINE_MS=50` overrides `[cameras.left] deadline_ms`. Unknown keys are
refused, units stand in the names, paths are relative to the file.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from daemon.errors import ConfigurationError
from daemon.records.outbox_schema import KINDS, Kind
from model.calibration import beside

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
"""Stands in event ids, topics and file names."""
Key = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
"""A name that is also part of environment variables, which know no capitals."""
ENVIRONMENT = "CLEARLINE_"
CREDENTIAL_FILES = ("password_file", "ca_file", "cert_file", "key_file")
NO_SETTINGS = frozenset({"CLEARLINE_DATA"})
"""Variables of ours that are not the configuration's: where tests find real surfaces."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RecipeSettings(Section):
    """Which model judges: a bundle with its calibration."""

    bundle: Path
    calibration: Path | None = None
    """Beside the bundle where it is not named."""

    @property
    def calibration_path(self) -> Path:
        return self.calibration or beside(self.bundle)


class CameraSettings(Section):
    url: str
    recipe: str = "default"
    deadline_ms: float = Field(default=200.0, gt=0, le=65_535)
    """From exposure to the verdict; what comes later is `uninspected(late)`."""
    max_fps: float = Field(default=30.0, gt=0, le=10_000)
    """With the deadline, how many slots of the ring the camera gets."""
    max_frame_bytes: int = Field(default=4 << 20, ge=64 * 64, le=1 << 30)
    number: int | None = Field(default=None, ge=1, le=32)
    """What the PLC calls it; its place in the file where none is named."""
    mm_per_px: float | None = Field(default=None, gt=0, le=1000)
    """The camera's scale; without it events carry pixels only."""
    line_scan: bool = False
    """Its frames are strips of an endless web: a defect that goes on in the next one is one."""


class WorkerSettings(Section):
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto` (a GPU where there is one), `cpu`, or `cuda:N`."""
    batch_frames: int = Field(default=8, ge=1, le=64)


class MqttSettings(Section):
    host: str | None = None
    """The broker that the PLC listens to; no PLC where none is named."""
    port: int = Field(default=1883, ge=1, le=65535)
    base: str = Field(default="clearline", pattern=r"^[!-~]{1,64}$")
    """What every topic begins with: `enterprise/site/area/line/cell` is the habit."""
    byte_order: Literal["little", "big"] = "little"
    """`big` for Siemens."""
    parts_from_plc: bool = False
    """The PLC tells `from/part` which part each trigger was; a part that it did not tell is
    rejected. Else a part's number is what the cameras say."""
    verdicts_as_json: bool = False
    """Every verdict also as text, for people who look on."""
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    """Who signed the broker's certificate: the connection is TLS. Without it, it is not."""
    cert_file: Path | None = None
    """Who we are, with `key_file`, where the broker asks for it."""
    key_file: Path | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> "MqttSettings":
        _credentials_go_together(self)
        if any(sign in self.base for sign in "+#") or self.base[0] == "$":
            raise ValueError("base must be a topic: without + and #, not beginning with $")
        return self


def _broker(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or set(host) & set(" ,/:") or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("a broker is HOST:PORT")
    return text


class KafkaSettings(Section):
    bootstrap: tuple[Annotated[str, AfterValidator(_broker)], ...] = ()
    """Brokers, HOST:PORT; no Kafka where none is named."""
    username: str | None = None
    password_file: Path | None = None
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How the password is shown; PLAIN is readable without TLS."""
    ca_file: Path | None = None
    """Who signed the brokers' certificates: connections are TLS. Without it, they are not."""
    cert_file: Path | None = None
    """Who we are, with `key_file`, where brokers ask for it."""
    key_file: Path | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> "KafkaSettings":
        _credentials_go_together(self)
        return self


def _credentials_go_together(said: "MqttSettings | KafkaSettings") -> None:
    if said.password_file is not None and said.username is None:
        raise ValueError("password_file is of no use without username")
    if said.cert_file is not None and said.ca_file is None:
        raise ValueError("cert_file is of no use without ca_file")
    if (said.cert_file is None) != (said.key_file is None):
        raise ValueError("cert_file and key_file go together")


class OutboxSettings(Section):
    max_bytes: int = Field(default=1 << 30, ge=1 << 20)
    max_age_hours: float = Field(default=168.0, gt=0)
    shed_first: tuple[Kind, ...] = KINDS
    """What goes first where there is no room. Pictures give way before any event."""

    @model_validator(mode="after")
    def _is_an_order(self) -> "OutboxSettings":
        if sorted(self.shed_first) != sorted(KINDS):
            raise ValueError(f"shed_first must name each of {', '.join(KINDS)} once")
        if self.shed_first[0] == "defect":
            raise ValueError("shed_first must not begin with defect")
        return self


class EventSettings(Section):
    jsonl: Path | None = None
    """A file of JSON lines; `events.jsonl` in the state folder where neither it nor Kafka is
    named."""
    jsonl_max_bytes: int = Field(default=100 << 20, ge=1 << 16)
    """A larger file is put by as NAME.1, an older one as NAME.2, …"""
    jsonl_keep: int = Field(default=10, ge=1, le=1000)
    """So many of those are kept."""


class EvidenceSettings(Section):
    folder: Path | None = None
    """Where pictures of every defect go; none are kept where it is not named."""
    frames: Literal["png", "jpeg", "none"] = "png"
    """The whole frame; as PNG it can be scored again (`clearline reproduce`)."""
    crops: Literal["png", "jpeg", "none"] = "jpeg"
    """Around the defect, with its heat map and outlines: what people look at."""
    max_bytes: int = Field(default=10 << 30, ge=1 << 20)
    max_age_hours: float = Field(default=720.0, gt=0)


class LogSettings(Section):
    format: Literal["auto", "json", "text"] = "auto"
    """`auto` is readable on a terminal and JSON elsewhere."""
    level: Literal["debug", "info", "warning", "error"] = "info"


class Configuration(BaseSettings):
    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        env_prefix=ENVIRONMENT,
        env_nested_delimiter="__",
    )

    site: Name = "site"
    line: Name = "line"
    state_dir: Path = Path("state")
    drain_seconds: float = Field(default=5.0, gt=0)
    """How long a stop waits for frames in flight and events on their way."""
    cameras: dict[Key, CameraSettings] = Field(min_length=1)
    recipes: dict[Key, RecipeSettings] = Field(min_length=1)
    worker: WorkerSettings = WorkerSettings()
    mqtt: MqttSettings = MqttSettings()
    kafka: KafkaSettings = KafkaSettings()
    outbox: OutboxSettings = OutboxSettings()
    events: EventSettings = EventSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _names_fit(self) -> "Configuration":
        for name, camera in self.cameras.items():
            if camera.recipe not in self.recipes:
                known = ", ".join(self.recipes)
                raise ValueError(f"cameras.{name}.recipe = {camera.recipe!r} is none of {known}")
        numbers = self.camera_numbers().values()
        if len(set(numbers)) < len(numbers) or max(numbers) > 32:
            raise ValueError(f"cameras need numbers of their own, 1 to 32: {self.camera_numbers()}")
        return self

    def camera_numbers(self) -> dict[str, int]:
        """What the PLC calls each camera."""
        return {
            name: camera.number or place
            for place, (name, camera) in enumerate(self.cameras.items(), start=1)
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment over what the file says."""
        return env_settings, init_settings


def load(path: Path) -> Configuration:
    """Raises ConfigurationError, naming the file, the key, its value and what was expected."""
    try:
        said = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(
            f"cannot be read: {error.strerror}", file=path, expected="a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"is no TOML: {error}", file=path) from error
    for key in said:
        if key not in Configuration.model_fields:
            raise ConfigurationError("is no key that is known here", file=path, key=key)
    for name in os.environ:
        section = name.removeprefix(ENVIRONMENT).split("__")[0].lower()
        ours = name.startswith(ENVIRONMENT) and name not in NO_SETTINGS
        if ours and section not in Configuration.model_fields:
            raise ConfigurationError("names no key that is known here", key=name)
    try:
        configuration = Configuration(**said)
    except ValidationError as error:
        raise _named(error, path) from error
    except SettingsError as error:
        raise ConfigurationError(
            f"is wrong in the environment: {error}",
            file=path,
            expected="a key of a section",
        ) from error
    return _relative_to(path.parent.absolute(), configuration)


def _named(error: ValidationError, path: Path) -> ConfigurationError:
    # An unknown key is often why another is missing: it is named first.
    found = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
    key: str | None = ".".join(str(part) for part in found["loc"]) or None
    variable = ENVIRONMENT + "__".join(str(part) for part in found["loc"]).upper()
    if variable in os.environ and found["type"] != "extra_forbidden":
        return ConfigurationError(
            f"is wrong: {found['msg']}", key=f"{variable} in the environment", value=found["input"]
        )
    if found["type"] == "extra_forbidden":
        return ConfigurationError("is no key that is known here", file=path, key=key)
    if found["type"] == "missing":
        return ConfigurationError("is missing", file=path, key=key)
    value = None if found["type"] == "value_error" else found["input"]
    return ConfigurationError(f"is wrong: {found['msg']}", file=path, key=key, value=value)


def _files(said: MqttSettings | KafkaSettings) -> dict[str, Path | None]:
    return {key: getattr(said, key) for key in CREDENTIAL_FILES}


def _relative_to(folder: Path, configuration: Configuration) -> Configuration:
    def placed(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    def section(settings: BaseModel, **paths: Path | None) -> Any:
        return settings.model_copy(update={k: placed(p) for k, p in paths.items()})

    recipes = {
        name: section(recipe, bundle=recipe.bundle, calibration=recipe.calibration)
        for name, recipe in configuration.recipes.items()
    }
    return configuration.model_copy(
        update={
            "state_dir": placed(configuration.state_dir),
            "recipes": recipes,
            "events": section(configuration.events, jsonl=configuration.events.jsonl),
            "mqtt": section(configuration.mqtt, **_files(configuration.mqtt)),
            "kafka": section(configuration.kafka, **_files(configuration.kafka)),
            "evidence": section(configuration.evidence, folder=configuration.evidence.folder),
        }
    )

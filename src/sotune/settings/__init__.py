"""Every setting of every stage: its name, its default and where that default comes from; free of torch.

A YAML key, a command-line flag, a keyword of the Python API and a field here have one name, and the functions that do
the work take these classes as they are.
"""

from sotune.settings.engine import EngineSettings
from sotune.settings.evaluate import (
    ChatJudgeSettings,
    ClassifierSettings,
    EvaluationSettings,
    GuardSettings,
    JudgeCheckSettings,
    JudgeSettings,
    MatchingSettings,
    ModelEvaluation,
    ModelsSettings,
    Temperature,
)
from sotune.settings.export import TARGET_NAMES, ExportSettings, TargetName
from sotune.settings.extract import (
    DataSettings,
    Format,
    InspectionSettings,
    LearnTurns,
    LoadingSettings,
    RepresentationSettings,
    SourceSettings,
    TokenSettings,
)
from sotune.settings.gate import GateSettings
from sotune.settings.init import InitSettings
from sotune.settings.json_schema import run_schema
from sotune.settings.mix import MixSettings
from sotune.settings.run import (
    ALL_SETTINGS,
    DEFAULT_HOLD,
    PRESETS,
    MethodSettings,
    RunConfig,
    RunSettings,
    make_config,
    make_settings,
    override,
    read_config,
)
from sotune.settings.schema import Bytes, RenderingSettings, SeedSettings, StageSettings, nearest_setting, parse_bytes
from sotune.settings.select import SelectionSettings
from sotune.settings.serve import ServeSettings
from sotune.settings.train import WATCHED_ONLY, TrainingSettings
from sotune.settings.weigh import TUNED, SentinelSettings, WeightSettings

__all__ = [
    "ALL_SETTINGS",
    "DEFAULT_HOLD",
    "PRESETS",
    "TARGET_NAMES",
    "TUNED",
    "WATCHED_ONLY",
    "Bytes",
    "ChatJudgeSettings",
    "ClassifierSettings",
    "DataSettings",
    "EngineSettings",
    "EvaluationSettings",
    "ExportSettings",
    "Format",
    "GateSettings",
    "GuardSettings",
    "InitSettings",
    "InspectionSettings",
    "JudgeCheckSettings",
    "JudgeSettings",
    "LearnTurns",
    "LoadingSettings",
    "MethodSettings",
    "MatchingSettings",
    "MixSettings",
    "ModelEvaluation",
    "ModelsSettings",
    "RenderingSettings",
    "RepresentationSettings",
    "RunConfig",
    "RunSettings",
    "SeedSettings",
    "SelectionSettings",
    "SentinelSettings",
    "ServeSettings",
    "SourceSettings",
    "StageSettings",
    "TargetName",
    "Temperature",
    "TokenSettings",
    "TrainingSettings",
    "WeightSettings",
    "make_config",
    "make_settings",
    "nearest_setting",
    "override",
    "parse_bytes",
    "read_config",
    "run_schema",
]

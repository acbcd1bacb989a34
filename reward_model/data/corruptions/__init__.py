"""Exactly annotated anomalies put into any real video: training data from your own footage, without annotators."""

from reward_model.data.corruptions.base import CorruptionError
from reward_model.data.corruptions.compose import KINDS, OPERATORS, corrupt
from reward_model.data.corruptions.decoys import DECOYS
from reward_model.data.corruptions.folder import corrupt_folder
from reward_model.data.corruptions.footage import Footage

__all__ = ["DECOYS", "KINDS", "OPERATORS", "CorruptionError", "Footage", "corrupt", "corrupt_folder"]

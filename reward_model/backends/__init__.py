"""Ways to ask a model: in this process, over an OpenAI-compatible server, or from a recording."""

from reward_model.backends.base import Backend, BackendError
from reward_model.conversation import Completion, Conversation, Message, Sampling

__all__ = ["Backend", "BackendError", "Completion", "Conversation", "Message", "Sampling"]

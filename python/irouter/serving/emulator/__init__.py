"""An emulated instance: the engine model in real time behind the OpenAI API."""

from irouter.serving.emulator.app import EmulatorSettings, make_app
from irouter.serving.emulator.faults import Faults

__all__ = ["EmulatorSettings", "Faults", "make_app"]

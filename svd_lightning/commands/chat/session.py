"""What a conversation remembers: its messages, which model answers, and the strengths that it steers with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from svd_lightning.data.examples import Example, Message
from svd_lightning.errors import InputError, meant
from svd_lightning.report.words import strengths_text
from svd_lightning.steering import UNSTEERED, Steering, SteeringFunction

HELP = """/base, /tuned, /steered   who answers from now on
/strength X              steer by this strength, one number per rule; without X as calibrated
/compare                 the last answer again, by all three one after another
/reset                   forget the conversation
/quit                    end, as Ctrl-D does; Ctrl-C stops an answer"""

_UNCALIBRATED = "this run is not calibrated; give a strength: /strength X"


@dataclass
class Session:
    """A conversation; it computes nothing.

    Args:
        configured: rules, mask and penalty of the run.
        calibrated: the steering in force; None for a run without strengths.
        template: whether the tokenizer has a chat template; without one each line is continued by itself.
        system: text of the system message.
    """

    configured: Steering
    calibrated: SteeringFunction | None
    template: bool = True
    system: str | None = None
    mode: str = field(init=False)
    """base, tuned or steered."""
    messages: list[Message] = field(init=False)

    def __post_init__(self) -> None:
        self._steered = self.calibrated
        self.mode = "tuned" if self._steered is None else "steered"
        self.messages = self._beginning()

    @property
    def steerings(self) -> Mapping[str, SteeringFunction]:
        """The steering of each model that can answer, by its name."""
        return {**UNSTEERED, **({} if self._steered is None else {"steered": self._steered})}

    @property
    def asked(self) -> bool:
        """Whether there is a question."""
        return any(message.role == "user" for message in self.messages)

    def obey(self, line: str) -> str:
        """Carry out a command such as `/base`; return what to say.

        Raises:
            InputError: for an unknown command, or strengths that are none.
            EOFError: for /quit.
        """
        name, *values = line[1:].split() or [""]
        commands: dict[str, Callable[[list[str]], str]] = {
            "strength": self._set_strength,
            "reset": self._reset,
            "quit": self._quit,
            "help": lambda _: HELP,
            **dict.fromkeys(("base", "tuned", "steered"), lambda _: self._switch(name)),
        }
        if name not in commands:
            known = [f"/{one}" for one in (*commands, "compare")]
            near = meant(f"/{name}", known) or f"; expected one of {', '.join(known)}"
            raise InputError(f"there is no command /{name}{near}")
        return commands[name](values)

    def ask(self, text: str) -> None:
        """Add a question."""
        if not self.template:
            self.messages = self._beginning()
        self.messages.append(Message(role="user", content=text))

    def keep(self, answer: str) -> None:
        """Add the answer to the last question."""
        self.messages.append(Message(role="assistant", content=answer, trained=False))

    def take_back(self) -> None:
        """Forget the last question, which has no answer."""
        self.messages.pop()

    def question(self) -> Example:
        """Return what the last question, and all before it, asks a model to write.

        Without a chat template it is the last question alone, as plain text.
        """
        last = max(place for place, message in enumerate(self.messages) if message.role == "user")
        until = tuple(self.messages[: last + 1])
        return Example("the conversation", until[-1].content, "", messages=until if self.template else None)

    def _beginning(self) -> list[Message]:
        return [] if self.system is None else [Message(role="system", content=self.system)]

    def _switch(self, name: str) -> str:
        if name not in self.steerings:
            raise InputError(_UNCALIBRATED)
        self.mode = name
        return f"{name} answers"

    def _set_strength(self, values: list[str]) -> str:
        if not values:
            if self.calibrated is None:
                raise InputError(_UNCALIBRATED)
            self._steered = self.calibrated
            return f"as calibrated; {self._switch('steered')}"
        try:
            strengths = [float(value) for value in values]
        except ValueError:
            raise InputError(f"strength: expected numbers, got {' '.join(values)!r}") from None
        self._steered = self.configured.with_strengths(strengths)
        return f"μ = {strengths_text(strengths)}; {self._switch('steered')}"

    def _reset(self, values: list[str]) -> str:
        self.messages = self._beginning()
        return "a new conversation"

    def _quit(self, values: list[str]) -> str:
        raise EOFError

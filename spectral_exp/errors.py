"""What a user can get wrong, told in one clear line each."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: the message alone, without a stack trace, is what they should see."""


class SettingError(UserError, ValueError):
    """A setting has a value that is not allowed.

    Args:
        setting: name as the user writes it, e.g. `warmup_steps`; outer layers prepend their own path
            (`optimizer.warmup_steps`) with `within`.
        value: what was received.
        allowed: what would have been right, as the end of the sentence "<setting>=<value> must be ...".
        remedy: what to do about it, where `allowed` does not say so already.
    """

    def __init__(self, setting: str, value: object, allowed: str, remedy: str = "") -> None:
        self.setting, self.value, self.allowed, self.remedy = setting, value, allowed, remedy
        super().__init__(f"{setting}={value} must be {allowed}" + (f"; {remedy}" if remedy else ""))

    def within(self, path: str) -> SettingError:
        """The same error with `path` (e.g. `optimizer`) put before the setting's name."""
        return SettingError(f"{path}.{self.setting}" if path else self.setting, self.value, self.allowed, self.remedy)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (parallel sweeps) by their constructor's arguments.
        return SettingError, (self.setting, self.value, self.allowed, self.remedy)


def require(condition: bool, setting: str, value: object, allowed: str, remedy: str = "") -> None:
    """Raise a SettingError unless `condition` holds."""
    if not condition:
        raise SettingError(setting, value, allowed, remedy)

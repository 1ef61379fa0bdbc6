"""A stand-in for tensors on another device, where there is only one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class OtherDevice(Tensor):
    """A tensor that meets none of this device until `cpu` or `to` has brought it here."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, unless it mixes the two devices; a single number may be anywhere."""
        with torch._C.DisableTorchFunctionSubclass():
            if func in (Tensor.cpu, Tensor.to):
                return func(*args, **kwargs or {}).as_subclass(Tensor)
            met = [one for one in (*args, *(kwargs or {}).values()) if isinstance(one, Tensor) and one.ndim]
        if not all(isinstance(one, cls) for one in met):
            raise RuntimeError(f"{func} met tensors of two devices")
        return super().__torch_function__(func, types, args, kwargs or {})


def elsewhere(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Return a function whose results are on another device."""
    return lambda *args, **options: function(*args, **options).as_subclass(OtherDevice)

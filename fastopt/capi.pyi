from typing_extensions import CapsuleType

__all__ = ["capi_address"]

_C_API: CapsuleType

def capi_address(name: str) -> int: ...

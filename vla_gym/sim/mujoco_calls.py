"""
MuJoCo's C functions for compiled code.

numba calls them by address, without the interpreter and its lock. Addresses are passed at run time rather than compiled
in, so that the compiled code can be cached on disk.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


class MujocoCalls(NamedTuple):
    """Addresses of MuJoCo's functions, as integers."""

    step: int
    step1: int
    step2: int
    forward: int
    jac_site: int


@lru_cache(maxsize=1)
def mujoco_calls() -> MujocoCalls:
    """
    Look up addresses in the library that the ``mujoco`` package has loaded.

    :raises OSError: if the library is not in the package's folder
    """
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    folder = Path(mujoco.__file__).parent
    files = [file for file in sorted(folder.glob("libmujoco*")) if suffix in file.name]
    if not files:
        raise OSError(f"There is no libmujoco*{suffix} in {folder}; reinstall it: pip install --force-reinstall mujoco")
    library = ctypes.CDLL(str(files[0]))
    names = ("mj_step", "mj_step1", "mj_step2", "mj_forward", "mj_jacSite")
    return MujocoCalls(*(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names))


_POINTER = ir.IntType(64)


def _call_model_data(_context: Any, address: Any, model: Any, data: Any) -> Any:
    """Call ``void f(const mjModel*, mjData*)`` at ``address``; all three are integers."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_POINTER] * 2)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


def _call_jac_site(_context: Any, address: Any, model: Any, data: Any, jac_pos: Any, jac_rot: Any, site: Any) -> Any:
    """Call ``mj_jacSite(model, data, jacp, jacr, site)`` at ``address``; all are integers, the Jacobians pointers."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_POINTER] * 4 + [ir.IntType(32)])
        site_number = builder.trunc(args[5], ir.IntType(32))
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [*args[1:5], site_number])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), generate


call_model_data: Any = intrinsic(_call_model_data)
call_jac_site: Any = intrinsic(_call_jac_site)

"""In which type matrix products run, where that is left to the machine."""

from chunkwise.core.errors import MachineError


def resolve_dtype(dtype: str) -> str:
    """The dtype that matrix products run in on this machine: "float32" or "bfloat16".

    Raises:
        MachineError: float16 on a CPU, bfloat16 on a GPU without it.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    if dtype == "float16":
        raise MachineError(
            "expected dtype float32 or bfloat16, got float16, which is some 500 times slower on a "
            "CPU and needs its loss scaled on a GPU",
            hint="set dtype to auto, bfloat16 or float32",
        )
    if on_gpu:
        has_bfloat16 = torch.cuda.is_bf16_supported()
    else:
        # torch may be told to do without AVX512 (ATEN_CPU_CAPABILITY), whatever the CPU has.
        capability = torch.backends.cpu.get_cpu_capability()
        has_bfloat16 = capability.startswith("AVX512") and _cpu_multiplies_bfloat16()
    if dtype == "auto":
        return "bfloat16" if has_bfloat16 else "float32"
    if dtype == "bfloat16" and on_gpu and not has_bfloat16:
        raise MachineError("this GPU has no bfloat16", hint="set dtype to float32")
    return dtype


def _cpu_multiplies_bfloat16() -> bool:
    """True where the CPU has instructions for bfloat16 products; without them bfloat16 is slower
    than float32.
    """
    import torch

    # A private name, which another version of torch may lack.
    is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(is_supported())

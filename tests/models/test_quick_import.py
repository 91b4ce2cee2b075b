"""torch's compiler is imported only when it is needed."""

import subprocess
import sys

CODE = """
import gc, sys
from mobile_sam.models.quick_import import quick_import
print("torch._dynamo" not in sys.modules, gc.isenabled(), gc.get_freeze_count() == 0)

roi_align = sys.modules["torchvision.ops.roi_align"]
supported = roi_align.is_compile_supported("cpu")  # imports the compiler
from torch._dynamo.utils import is_compile_supported
print(supported == is_compile_supported("cpu"), hasattr(sys.modules["torch._dynamo"], "__file__"))

import torch
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2)
"""
UNEXPECTED = """
import sys
sys.modules["timm"] = sys  # takes no time
from mobile_sam.models.quick_import import quick_import
with quick_import():
    import torch
    marked = torch.compiler.disable(lambda x: x + 1)
    print("__file__" not in vars(sys.modules["torch._dynamo"]))
    from torch._dynamo import OptimizedModule
import torch._dynamo
print(OptimizedModule is torch._dynamo.OptimizedModule, marked(1) == 2)
"""


def output_of(code: str) -> set[str]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_compiler_comes_when_a_library_calls_it() -> None:
    assert output_of(CODE) == {"True"}


def test_a_name_that_no_library_was_expected_to_take_is_the_compilers() -> None:
    assert output_of(UNEXPECTED) == {"True"}

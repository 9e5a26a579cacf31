"""The processor's name on x86, on ARM boards, and where Linux does not know it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from flexiast.processor import has_bfloat16_dot_product, has_int8_dot_product, read_processor_name


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nprocessor\t: 1\nmodel name\t: other\n", "AMD EPYC"),
        ("processor\t: 0\nCPU part\t: 0xd0b\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 5\n", "Raspberry Pi 5"),
    ],
    ids=["x86", "ARM"],
)  # fmt: skip
def test_the_name_is_read_from_cpuinfo(tmp_path: Path, lines: str, name: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(lines)
    assert read_processor_name(tmp_path) == name


def test_without_cpuinfo_it_is_what_python_knows(tmp_path: Path) -> None:
    assert read_processor_name(tmp_path) == (platform.processor() or platform.machine())


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni sse\n", True),
        ("flags\t\t: fpu avx_vnni\n", True),
        ("Features\t: fp asimd asimddp\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("Features\t: fp asimd\n", False),
        ("bugs\t\t: avx512_vnni\n", False),
    ],
)
def test_what_multiplies_bytes_is_read_from_cpuinfo(tmp_path: Path, lines: str, known: bool) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("processor\t: 0\n" + lines)
    assert has_int8_dot_product(tmp_path) == known


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        ("flags\t\t: fpu avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        ("Features\t: fp asimd bf16\n", False),
    ],
)
def test_what_multiplies_bfloat16_is_read_from_cpuinfo(tmp_path: Path, lines: str, known: bool) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("processor\t: 0\n" + lines)
    assert has_bfloat16_dot_product(tmp_path) == known


def test_without_cpuinfo_no_processor_multiplies_bytes_or_bfloat16(tmp_path: Path) -> None:
    assert not has_int8_dot_product(tmp_path)
    assert not has_bfloat16_dot_product(tmp_path)

"""The work of `flexiast verify`."""

from __future__ import annotations

from flexiast_cli.terminal.console import count_noun, print_json, stdout
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.inference.selfcheck import frontend_error, verify_bundle


def run(model: str, *, as_json: bool) -> None:
    """Raises VerificationError for a file or an engine that is not as it was exported."""
    bundle = Bundle.open(find_bundle(model))
    found, error_nat = verify_bundle(bundle), frontend_error(bundle)
    files = len(bundle.manifest.files)
    if as_json:
        engines = [
            {
                "patch_size": str(variant.patch_size),
                "precision": variant.precision,
                "max_abs_error": error,
                "tolerance": variant.parity.tolerance,
            }
            for variant, error in found
        ]
        print_json({"files": files, "frontend_max_abs_error_nat": error_nat, "engines": engines})
        return
    console = stdout()
    checked = f"{count_noun(files, 'file')} and {count_noun(len(found), 'engine')}"
    text = f"{bundle.folder}: {checked} are as exported; largest logit errors:"
    console.print(text, markup=False, soft_wrap=True)
    for precision in bundle.manifest.precisions:
        errors = [f"{variant.patch_size} {error:.1e}" for variant, error in found if variant.precision == precision]
        console.print(f"  {precision}: {', '.join(errors)}", markup=False, soft_wrap=True)
    if error_nat is None:
        console.print("  front end: no graph; `flexiast export BUNDLE` adds it", markup=False, soft_wrap=True)
    else:
        console.print(f"  front end: {error_nat:.1e} nat", markup=False, soft_wrap=True)

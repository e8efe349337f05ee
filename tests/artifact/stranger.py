"""What someone runs who has torch, transformers and peft only: python stranger.py BASE CASES FOLDER...

Prints JSON: for each folder, for each case, the tokens. Other packages of this project's are refused on import.
"""

import importlib.abc
import json
import sys

REFUSED = {
    "svd_lightning",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "datasets",
    "jsonargparse",
    "matplotlib",
}


class Refusal(importlib.abc.MetaPathFinder):
    """Imports end here as they would where the package is not installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def main(base, cases, *folders):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    cases = json.loads(cases)
    ids, mask = (torch.tensor(cases[name]) for name in ("input_ids", "attention_mask"))
    found = {}
    for folder in folders:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
        for name, options in cases["options"].items():
            torch.manual_seed(11)
            tokens = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=6,
                custom_generate=folder,
                trust_remote_code=True,
                **options,
            )
            found.setdefault(folder, {})[name] = tokens.tolist()
    leaked = sorted({module.partition(".")[0] for module in sys.modules} & REFUSED)
    print(json.dumps({"found": found, "leaked": leaked}))


if __name__ == "__main__":
    sys.meta_path.insert(0, Refusal())
    main(*sys.argv[1:])

"""lm-evaluation-harness through the server, against `svd-lightning lm-eval`: `pytest -m slow`."""

import pytest

from svd_lightning.commands.demo import BASE_FOLDER
from tests.commands.lm_eval.test_lm_eval import TASKS, _few_tasks, prompts, tasks  # noqa: F401  fixtures
from tests.commands.serve.serving import NAME, serving

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
pytest.importorskip("tenacity", reason="lm-eval[api] is not installed")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("concurrent", [1, 4])
def test_the_harness_measures_the_same_through_the_server(concurrent, module, fitted, tasks, capsys):  # noqa: F811
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from svd_lightning.commands.lm_eval.command import lm_eval

    wanted = lm_eval(str(fitted), tasks=",".join(TASKS), include_path=str(tasks), device="cpu")
    with serving(module, timeout=240.0) as address:
        for name, own in wanted.items():
            found = simple_evaluate(
                "local-completions",
                model_args={
                    "model": f"{NAME}:{name}",
                    "base_url": f"http://{address}/v1/completions",
                    "tokenizer": str(BASE_FOLDER),
                    "tokenizer_backend": "huggingface",
                    "add_bos_token": True,
                    "num_concurrent": concurrent,
                    "max_length": 64,
                },
                tasks=list(TASKS),
                task_manager=TaskManager(include_path=str(tasks)),
                log_samples=False,
            )
            for task in TASKS:
                for metric, value in own["results"][task].items():
                    if isinstance(value, float):
                        assert found["results"][task][metric] == pytest.approx(value, rel=1e-4), (
                            name,
                            task,
                            metric,
                        )

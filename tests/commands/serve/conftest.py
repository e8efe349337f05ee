import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("openai", reason="the extra `judge` is not installed")


@pytest.fixture(scope="package")
def module(fitted):
    """The diaries' run, with a chat template of its words."""
    from svd_lightning.runs import open_run

    module = open_run(fitted)
    module.tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %} {{ message['content'] }} :{% endfor %}"
    )
    return module

"""What decoding options express of a steering or correction: of transformers' `generate`, and of servers."""

import copy
from typing import Any, NamedTuple

from transformers import GenerationConfig, PreTrainedTokenizerBase

from svd_lightning.errors import InputError
from svd_lightning.steering import LabelBias, Steering, Temperature, correction_name

_REMEDY = "write --form steering, which brings its own code for generate"


class Options(NamedTuple):
    """The same decoding, said twice."""

    words: str
    """What they express."""
    generation: GenerationConfig
    """For transformers."""
    server: dict[str, Any]
    """Fields of a request to an OpenAI-compatible server; `texts` says which tokens `logit_bias` is about."""


def options_of(steering: Steering, config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> Options:
    """Return the decoding options that make the tuned model decode as a steering does.

    A `LabelBias` (`Prior` too) is `sequence_bias`, which beam search treats otherwise, and `logit_bias`, added to
    the biases that the options have already. `Temperature` alone is the temperature T / (1 + μ) instead of T; a
    mask α with λ = −∞ is min_p = α ** ((1 + μ) / T), for what applies the temperature first, as transformers and
    vLLM do.

    Args:
        steering: in use.
        config: the decoding options, the base's own included.

    Raises:
        InputError: for anything else, with the reason why no option expresses it.
    """
    config, correction = copy.deepcopy(config), getattr(steering, "correction", None)
    if isinstance(correction, LabelBias):
        biases = _token_biases(config)
        for token, bias in zip(correction.tokens.tolist(), correction.weights.tolist(), strict=True):
            biases[token] = biases.get(token, 0.0) + bias
        config.sequence_bias = [[[token], bias] for token, bias in biases.items()]
        texts = {str(token): tokenizer.decode([token]) for token in biases}
        server = {"logit_bias": {str(token): bias for token, bias in biases.items()}, "texts": texts}
        return Options(correction.words, config, server)
    if correction is not None:
        why = "depends on the text" if correction.reads_states else "changes the adapter"
        raise InputError(
            "form: decoding options add the same to a token's logit everywhere, and "
            f"{correction_name(correction)} {why}; write --form adapter"
        )
    if steering.reads_base or [type(rule) for rule in steering.rules] != [Temperature] or steering.features:
        names = ", ".join(type(rule).__name__ for rule in steering.rules)
        raise InputError(f"form: decoding options cannot express {names}, which read the base; {_REMEDY}")
    return _tempered(steering, config)


def _token_biases(config: GenerationConfig) -> dict[int, float]:
    """Return what `sequence_bias` adds to single tokens, which is a list of pairs or, in old files, a mapping.

    Raises:
        InputError: for sequences of several tokens, of which `logit_bias` knows nothing.
    """
    given = config.sequence_bias or []
    pairs = [(list(ids), bias) for ids, bias in (given.items() if isinstance(given, dict) else given)]
    if long := [ids for ids, _ in pairs if len(ids) > 1]:
        raise InputError(
            f"generation.sequence_bias: expected single tokens beside a label bias, got the sequence {long[0]}, "
            f"which options of a server cannot express; leave it out, or {_REMEDY}"
        )
    return {ids[0]: bias for ids, bias in pairs}


def _tempered(steering: Steering, config: GenerationConfig) -> Options:
    assert steering.strengths is not None
    power = 1.0 + steering.strengths[0]
    if power <= 0.0:
        raise InputError(f"form: a temperature is above 0, got the strength {steering.strengths[0]:g}; {_REMEDY}")
    given = 1.0 if config.temperature is None else config.temperature
    found = {"temperature": given / power}
    if steering.alpha is not None:
        if not steering.forbids:
            raise InputError(
                f"form: a temperature acts on all tokens, and with α = {steering.alpha:g} and "
                f"λ = {steering.penalty:g} this one does not; {_REMEDY}"
            )
        cuts = [name for name in ("top_p", "min_p", "typical_p") if getattr(config, name) not in (None, 1.0, 0.0)]
        if cuts:
            raise InputError(
                f"form: the mask would become min_p, and {cuts[0]} beside it would cut in another order; {_REMEDY}"
            )
        found["min_p"] = steering.alpha ** (power / given)
    if config.do_sample:  # greedy decoding takes the same token at any temperature
        config.update(**found)
    return Options("a temperature", config, found)

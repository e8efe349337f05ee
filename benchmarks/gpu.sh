#!/usr/bin/env bash
# All that needs a GPU, on one, within 12 minutes:
#
#     OUT=results bash benchmarks/gpu.sh                      # all of it
#     OUT=results bash benchmarks/gpu.sh right speed          # some of it: right, speed, prompts, runs, chain
#     OUT=rehearsal DEVICE=cpu bash benchmarks/gpu.sh         # a rehearsal on tiny models; says nothing of speed
#
# Each step prints into a file of its own in OUT, and has a limit of its own: one that hangs costs no other. In
# OUT/summary.txt stand their statuses; 124 is the limit, 1 of `engines` is the verdict "fault".
# MODEL may name the folder of a trained base; left out, the demo's own tiny one is taken.
set -u
cd "$(dirname "$0")/.."
: "${OUT:?OUT: expected a folder for the results}"
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
PYTHON=${PYTHON:-python}
DEVICE=${DEVICE:-cuda}
MODEL=${MODEL:-svd_lightning/commands/demo/base}
SECONDS=0
LIMIT=${LIMIT:-700}
export PYTHONPATH=$PWD TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore

if [ "$DEVICE" = cuda ]; then
    SHAPE=8b SOME=8 FEW=4 PROMPTS="32 128 512 2048 8192" LONG="32 2048 8192" BATCHES="1 8" ROUNDS=3 TOKENS=24
    SCORING="--full --chunk 66 224 1024" TRAIN="--hidden 2048 --layers 16 --batch 16 --longest 512 --precision bf16"
    ROWS=200
else
    SHAPE=tiny SOME=2 FEW=2 PROMPTS="8 16" LONG="8 16" BATCHES="1 2" ROUNDS=1 TOKENS=4
    SCORING="--vocabulary 8000 --hidden 64 --length 64 --full --chunk 32" TRAIN="--hidden 64 --layers 2 --steps 5"
    ROWS=8
fi

step() { # name, seconds it may take, command
    local name=$1 limit=$2 start=$SECONDS left=$((LIMIT - SECONDS)) status
    shift 2
    [ "$limit" -gt "$left" ] && limit=$left
    if [ "$limit" -lt 10 ]; then
        echo "$name: not run, no time left" | tee -a "$OUT/summary.txt"
        return
    fi
    echo "$*" >"$OUT/$name.txt"
    timeout --kill-after=5 "$limit" "$@" >>"$OUT/$name.txt" 2>"$OUT/$name.err"
    status=$?
    echo "$name: status $status, $((SECONDS - start)) s" | tee -a "$OUT/summary.txt"
}

right() { # B.8: logits and tokens of all engines and caches; tests on one GPU
    local engines="$PYTHON benchmarks/engines.py --device $DEVICE --tokens $TOKENS"
    step engines_whole_float32 90 $engines --shape $SHAPE --dtype float32 --no-compiled
    step engines_whole_bfloat16 60 $engines --shape $SHAPE --dtype bfloat16 --no-compiled
    step engines_compiled_float32 90 $engines --shape $SHAPE --layers $FEW --dtype float32
    step engines_compiled_bfloat16 90 $engines --shape $SHAPE --layers $FEW --dtype bfloat16
    step engines_model_float32 90 $engines --model "$MODEL" --dtype float32
    step engines_model_bfloat16 90 $engines --model "$MODEL" --dtype bfloat16
    step tests_decoding 150 "$PYTHON" -m pytest -n 0 -m gpu -rs tests/decoding/test_gpu.py
}

speed() { # B.4, B.5: a compiled step, and scoring at a large vocabulary
    step decode_static 260 "$PYTHON" benchmarks/decode.py --device "$DEVICE" --size $SHAPE --caches static \
        --batch $BATCHES --tokens $TOKENS --rounds $ROUNDS --no-two-models --only "steered, one pass"
    step scoring 60 "$PYTHON" benchmarks/scoring.py --device "$DEVICE" --rounds $ROUNDS $SCORING
    step decode_dynamic 90 "$PYTHON" benchmarks/decode.py --device "$DEVICE" --size $SHAPE --batch $BATCHES \
        --tokens $TOKENS --rounds $ROUNDS --no-two-models --only "steered, one pass" "steered, two passes"
}

prompts() { # B.6, B.10: cost against the prompt's length, on a part of the layers; samples of one prompt
    local decode="$PYTHON benchmarks/decode.py --device $DEVICE --size $SHAPE --layers $SOME --tokens $TOKENS"
    decode="$decode --rounds $ROUNDS --no-two-models"
    step prompts_dynamic 100 $decode --prompt $PROMPTS --batch $BATCHES --only "steered, one pass"
    step prompts_static 180 $decode --prompt $LONG --batch $BATCHES --caches static --only "steered, one pass"
    step samples 60 $decode --prompt $LONG --samples 8
}

runs() { # B.7: warm start and calibration
    step train 90 "$PYTHON" benchmarks/train.py --device "$DEVICE" --rounds 3 $TRAIN
    step calibration 90 "$PYTHON" benchmarks/calibration_cost.py --device "$DEVICE" --shape $SHAPE \
        --examples $ROWS --rounds 3
}

chain() { # B.9: fit, test and predict under every strategy that one GPU allows
    step tests_chain 600 "$PYTHON" -m pytest -n 0 -m gpu -rs tests/distributed/test_gpu.py
}

date -u | tee -a "$OUT/summary.txt"
"$PYTHON" - >>"$OUT/summary.txt" <<'PYTHON_END'
import peft, torch, transformers
place = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(place, "torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)
PYTHON_END
for part in ${@:-right speed prompts runs chain}; do
    case $part in
        right | speed | prompts | runs | chain) $part ;;
        *) echo "gpu.sh: expected right, speed, prompts, runs or chain, got $part" >&2 && exit 2 ;;
    esac
done

"""Fine-tuning, export and use of an encoder: a tiny one, made here, where the extra `[train]` is installed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from irouter import prediction
from irouter._core import IrouterError
from irouter.cli import main
from irouter.prediction.encoder import PRECISIONS, EncoderPredictor
from irouter.prediction.encoder_inputs import EncoderInputs
from irouter.prediction.encoder_training import EncoderOptions, fine_tune
from irouter.prediction.requests import Requests

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
from irouter.prediction import encoder_export  # noqa: E402 - after the packages that it needs
from irouter.prediction.encoder_network import censored_loss  # noqa: E402 - as above

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two small layers whose vocabulary is letters."""
    folder = tmp_path_factory.mktemp("tiny")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789.")
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    words = ["please", "translate", "implement", "essay", "with", "care", "part"]
    vocabulary += words
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            {word: number for number, word in enumerate(vocabulary)}, unk_token="[UNK]"
        )
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.fixture(scope="module")
def folder(tiny: Path, log_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoder") / "lengths"
    arguments = ["--backend", "encoder", "--encoder", str(tiny), "--epochs", "6", "--max-tokens", "48"]
    arguments += ["--learning-rate", "0.002", "--threads", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["predictor", "train", "--data", str(log_file), "--out", str(out), *arguments])
    assert ended.value.code == 0
    return out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fine_tuned_encoder_ranks_and_its_card_says_how_it_was_made(folder: Path) -> None:
    card = prediction.load(folder).card
    assert card.metrics["kendall_tau"] > 0.6
    assert 0.7 < card.metrics["coverage_80"] < 0.9
    assert card.licence == "apache-2.0"
    assert len(card.options["losses"]) == 6
    assert set(card.files) == {"model.onnx", "model-int8.onnx", "tokenizer.json"}
    assert card.options["logit_difference_fp32"] < encoder_export.LOGIT_TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torch_onnx_and_int8_agree(tiny: Path, log: prediction.RequestLog, tmp_path: Path) -> None:
    options = EncoderOptions(model=str(tiny), epochs=2, max_tokens=48, learning_rate=2e-3, threads=1)
    trained = fine_tune(log.part("train"), log.part("val"), options)
    again = fine_tune(log.part("train"), log.part("val"), options)
    assert trained.history == again.history
    encoder_export.export(trained, log.part("val"), tmp_path)
    test = log.part("test")
    inputs = EncoderInputs(tmp_path / "tokenizer.json", max_tokens=48)
    fp32, int8 = (EncoderPredictor(tmp_path / file, inputs, trained.bins) for file in PRECISIONS.values())
    expected = encoder_export.torch_logits(trained, inputs, test.requests)
    assert fp32.logits(test.requests) == pytest.approx(expected, abs=encoder_export.LOGIT_TOLERANCE)
    true = test.output_tokens.astype(float)
    tau = [
        prediction.Outcomes(told.predict_requests(test.requests), test.output_tokens, test.cut, (1, 2, 3, 4))
        .metrics()
        .kendall_tau
        for told in (fp32, int8)
    ]
    assert len(true) == len(expected)
    assert tau[0] is not None
    assert tau[1] is not None
    assert tau[1] >= tau[0] - encoder_export.INT8_TAU_LOSS


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_batch_says_what_single_calls_say(folder: Path, log: prediction.RequestLog) -> None:
    predictor = prediction.load(folder, precision="fp32")
    some = log.part("test").requests[:40]
    together = predictor.predict_requests(some)
    for row in (0, 7, 39):
        alone = predictor.predict_requests(some[row : row + 1])
        assert alone.quantiles[0] == pytest.approx(together.quantiles[row], rel=1e-3, abs=0.05)
    strange = predictor.predict(["word " * 100_000, "日本語", "\x00", "x" * 999_999])
    assert np.isfinite(strange.quantiles).all()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_exported_encoder_has_one_precision(folder: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    prediction.export(folder, small, precision="int8")
    assert sorted(path.name for path in small.iterdir()) == ["card.json", "model-int8.onnx", "tokenizer.json"]
    told = prediction.load(small).predict(["please translate this"])
    assert (
        told.quantiles.tolist()
        == prediction.load(folder, precision="int8").predict(["please translate this"]).quantiles.tolist()
    )
    with pytest.raises(IrouterError, match=r"no model\.onnx, which `irouter predictor export` writes"):
        prediction.load(small, precision="fp32")
    with pytest.raises(IrouterError, match="precision 'fp16', expected fp32 or int8"):
        prediction.load(folder, precision="fp16")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_file_that_is_no_network_is_refused(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.onnx").write_bytes(b"not a network")
    card = json.loads((broken / "card.json").read_text())
    prediction.read_card(folder).write(broken)
    assert card["backend"] == "encoder"
    with pytest.raises(IrouterError, match="not a network that ONNX Runtime reads"):
        prediction.load(broken, precision="fp32")


def test_an_encoder_that_does_not_exist_is_named(log: prediction.RequestLog, tmp_path: Path) -> None:
    options = EncoderOptions(model=str(tmp_path / "nowhere"))
    with pytest.raises(IrouterError, match="cannot be loaded"):
        fine_tune(log.part("train"), log.part("val"), options)


def test_a_long_prompt_keeps_both_ends_and_its_hint(tiny: Path) -> None:
    inputs = EncoderInputs(tiny / "tokenizer.json", max_tokens=24)
    prompts = ("a " * 200 + "z " * 200, "a b")
    long, short = inputs.rows(Requests(prompts, ("code", None), (None, None)))
    assert len(long) == 24
    letter = {name: inputs.rows(Requests((name,), (None,), (None,)))[0][1] for name in "az"}
    assert long[1] == letter["a"]
    assert letter["z"] in long
    assert len(short) == 4
    batch = inputs.batch([long, short])
    assert batch.attention_mask.sum(axis=1).tolist() == [24, 4]


def test_the_loss_of_a_cut_length_is_that_of_surviving_it() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    whole, cut = torch.tensor([[0.0, 1, 0, 0]]), torch.tensor([[0.0, 0, 1, 1]])
    assert float(censored_loss(logits, whole, ranked=0.0)) == pytest.approx(-np.log(0.2), abs=1e-5)
    assert float(censored_loss(logits, cut, ranked=0.0)) == pytest.approx(-np.log(0.7), abs=1e-5)
    # Ranked score of bin 1: 0.1 below it, 0.7 and 0.4 beyond it that should be nothing.
    ranked = 0.1**2 + 0.7**2 + 0.4**2
    assert float(censored_loss(logits, whole, ranked=1.0)) == pytest.approx(-np.log(0.2) + ranked, abs=1e-5)
    # Of the cut one it is known to lie above the first two edges only.
    ranked = 0.1**2 + 0.3**2
    assert float(censored_loss(logits, cut, ranked=1.0)) == pytest.approx(-np.log(0.7) + ranked, abs=1e-5)

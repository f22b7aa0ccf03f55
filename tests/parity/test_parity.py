"""The stored pairs, the check itself, and a reference of our own at other widths."""

import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import check
import numpy as np
import pair as pair_of
import pytest
import torch

HERE = Path(check.__file__).parent
PAIRS = sorted(HERE.glob("*.json"))
ALPHABET = json.loads((HERE / "char_cnn_rnn_c512.json").read_text())["config"]["alphabet"]
LIMITS = {"xmcgan_128_small": 2e-5}
"""Its stored image, float32, is 4e-6 away from our calculation in float64."""
CAPTIONS = ["a red bird", "Two CATS & a dog!", "x", "long " * 60]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda path: path.stem)
def test_we_compute_what_the_reference_computes(pair):
    errors = check.check(pair)
    assert max(errors.values()) < LIMITS.get(pair.stem, 1e-5), errors


def test_every_registered_system_has_a_pair():
    names = [json.loads(path.read_text())["system"] for path in PAIRS]
    for begins in check.SYSTEMS:
        assert any(name.startswith(begins) for name in names), begins


def convolution(x, weight, bias):
    """``x`` (L, in), ``weight`` (out, in, 4): (L - 3, out)."""
    return np.stack([np.einsum("ki,oik->o", x[i : i + 4], weight) + bias for i in range(len(x) - 3)])


def pooling(x):
    return np.stack([x[3 * i : 3 * i + 3].max(axis=0) for i in range(len(x) // 3)])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def char_cnn_rnn_in_numpy(weights, caption, characters, alphabet):
    """The published architecture for one caption in float64, written down step by step."""
    w = {key: value.astype(np.float64) for key, value in weights.items()}
    columns = {character: column for column, character in enumerate(alphabet)}
    x = np.zeros((characters, len(alphabet)))
    for place, character in enumerate(caption[:characters]):
        if character in columns:
            x[place, columns[character]] = 1
    x = pooling(np.maximum(convolution(x, w["conv1.weight"], w["conv1.bias"]), 0))
    x = pooling(np.maximum(convolution(x, w["conv2.weight"], w["conv2.bias"]), 0))
    x = np.maximum(convolution(x, w["conv3.weight"], w["conv3.bias"]), 0)

    def maps(gate, side, value):
        return w[f"gru.{gate}.{side}.weight"] @ value + w[f"gru.{gate}.{side}.bias"]

    states = [np.tanh(maps("candidate", "input", x[0]))]
    for now in x[1:]:
        h = states[-1]
        z = sigmoid(maps("update", "input", now) + maps("update", "hidden", h))
        r = sigmoid(maps("reset", "input", now) + maps("reset", "hidden", h))
        candidate = np.tanh(maps("candidate", "input", now) + maps("candidate", "hidden", r * h))
        states.append(z * candidate + (1 - z) * h)
    return w["head.weight"] @ np.mean(states, axis=0) + w["head.bias"]


def write_pair(folder, channels, characters, alphabet, spoil=lambda weights: None):
    """A pair like the official ones at other widths; ``spoil`` may change the weights behind its outputs."""
    about = json.loads((HERE / "char_cnn_rnn_c512.json").read_text())
    about["config"] = {"C": channels, "characters": characters, "alphabet": alphabet}
    about["inputs"] = {"captions": CAPTIONS}
    wide = {512: channels}
    for key, shape in about["keys"].items():
        if key.startswith(("gru", "conv3", "head")):
            about["keys"][key] = [wide.get(side, side) for side in shape]
    about["keys"]["conv3.weight"] = [channels, 512, 4]
    about["keys"]["conv1.weight"][1] = len(alphabet)
    about["outputs"]["phi"] = {"shape": [len(CAPTIONS), 1024], "stored": [len(CAPTIONS), 1024], "stride": 1}
    weights = {key: pair_of.weight(key, shape) for key, shape in about["keys"].items()}
    spoil(weights)
    phi = [char_cnn_rnn_in_numpy(weights, caption, characters, alphabet) for caption in CAPTIONS]
    (folder / "pair.json").write_text(json.dumps(about))
    np.savez(folder / "pair.npz", phi=np.float32(phi))
    return folder / "pair.json"


@pytest.mark.parametrize(
    ("channels", "characters", "alphabet"),
    [
        (32, 201, ALPHABET),
        (24, 120, "aeiou& X"),
    ],
)
def test_other_widths_lengths_and_alphabets_agree_with_a_float64_reference(
    tmp_path, channels, characters, alphabet
):
    pair = write_pair(tmp_path, channels, characters, alphabet)
    assert check.check(pair)["phi"] < 1e-5
    assert check.main([str(pair)]) == 0


@pytest.mark.parametrize(
    "key", ["conv1.weight", "gru.reset.hidden.bias", "gru.candidate.hidden.weight", "head.bias"]
)
def test_one_perturbed_weight_fails_the_check(tmp_path, capsys, key):
    def spoil(weights):
        weights[key].flat[0] += 2

    pair = write_pair(tmp_path, 32, 60, "abcdefghijklmnopqrstuvwxyz ", spoil)
    assert check.main([str(pair)]) == 1
    assert "DIFFERS" in capsys.readouterr().out


def copied(folder):
    """The word encoder's pair, copied to ``folder``; its JSON and arrays."""
    for ending in ("json", "npz"):
        shutil.copy(HERE / f"damsm_bird_text_encoder.{ending}", folder)
    path = folder / "damsm_bird_text_encoder.json"
    return path, json.loads(path.read_text()), dict(np.load(path.with_suffix(".npz")))


def test_outputs_that_are_missing_misshapen_or_not_finite_are_off_without_limit(tmp_path):
    path, about, stored = copied(tmp_path)
    about["outputs"]["other"] = about["outputs"]["sent_emb"]
    about["outputs"]["words_emb"]["shape"] = [3, 18, 256]
    path.write_text(json.dumps(about))
    stored["sent_emb"][0, 0] = np.nan
    np.savez(path.with_suffix(".npz"), other=stored["sent_emb"], **stored)
    assert check.check(path) == {"words_emb": np.inf, "sent_emb": np.inf, "other": np.inf}
    assert check.main([str(path)]) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda about: about.update(system="no such system"),
        lambda about: about.pop("keys"),
        lambda about: about.pop("config"),
        lambda about: about["keys"].pop("encoder.weight"),
        lambda about: about["keys"].update({"decoder.weight": [1]}),
        lambda about: about.update(outputs={}),
    ],
)
def test_a_pair_that_cannot_be_run_is_a_usage_error(tmp_path, capsys, damage):
    path, about, _ = copied(tmp_path)
    damage(about)
    path.write_text(json.dumps(about))
    assert check.main([str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_or_broken_file_is_a_usage_error(tmp_path, capsys):
    (tmp_path / "broken.json").write_text("{")
    assert check.main([str(tmp_path / "none.json")]) == 2
    assert check.main([str(tmp_path / "broken.json")]) == 2
    assert capsys.readouterr().err.count("cannot be read") == 2
    with pytest.raises(SystemExit, match="2"):
        check.main([])


def test_it_runs_as_a_script_from_anywhere(tmp_path):
    command = [sys.executable, str(HERE / "check.py"), str(HERE / "char_cnn_rnn_c512.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name, output, error, verdict = done.stdout.split()
    assert (name, output, verdict) == ("char_cnn_rnn_c512", "phi", "ok") and float(error) < 1e-5


def test_weights_and_inputs_follow_the_rule():
    x = np.random.default_rng(zlib.crc32(b"a.weight")).standard_normal((3, 8)).astype(np.float32)
    np.testing.assert_allclose(pair_of.weight("a.weight", [3, 8]), x / np.sqrt(8), rtol=1e-6)
    for key, low, high in [("n.weight", 0.5, 1.5), ("n.running_var", 0.5, 2), ("n.running_mean", -0.5, 0.5)]:
        assert (pair_of.weight(key, [50]) > low).all() and (pair_of.weight(key, [50]) < high).all()
    assert pair_of.weight("n.num_batches_tracked", []) == 0
    flax = np.random.default_rng(zlib.crc32(b"a/kernel")).standard_normal((3, 3, 2, 5)).astype(np.float32)
    np.testing.assert_allclose(pair_of.weight("a/kernel", [3, 3, 2, 5]), flax / np.sqrt(18), rtol=1e-6)
    assert (
        np.abs(pair_of.weight("a/u0", [1, 500])).max() > 2 > 1 > np.abs(pair_of.weight("a/mean", [50])).max()
    )
    assert (pair_of.weight("a/var", [50]) > 0.5).all()
    plain = pair_of.tensor("z", [2, 3])
    for remark, expected in [
        ("0.3 x rule [2,3]", 0.3 * plain),
        ("tanh of the rule at [2,3]", plain.tanh()),
        ("sigmoid of the rule at [2, 3]", plain.sigmoid()),
    ]:
        np.testing.assert_allclose(pair_of.tensor("z", remark), expected, rtol=1e-6)
    with pytest.raises(pair_of.PairError, match="input 'z'"):
        pair_of.tensor("z", "whatever")


@pytest.mark.parametrize("channels_last", [False, True])
def test_strided_outputs_are_compared_at_the_stored_places(channels_last):
    full = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)
    stored = full[..., ::4, ::4].numpy()
    if channels_last:
        full, stored = full.permute(0, 2, 3, 1), stored.transpose(0, 2, 3, 1)
    form = {"shape": list(full.shape), "stored": list(stored.shape), "stride": 4}
    pair = pair_of.Pair({"outputs": {"image": form}, "expected": {"loss": 2.0}}, {"image": stored})
    outputs = {"image": full, "loss": torch.tensor(2.02)}
    errors = dict(pair.errors(outputs))
    assert errors["image"] == 0 and errors["loss"] == pytest.approx(0.01)

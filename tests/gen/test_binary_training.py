"""The shipped binary encoders: their data, that training does what it says, what is written, and what the written files score."""

import dataclasses
import json
import pathlib

import pytest
import torch

from celosia.gen.binary import checkpoint, float_model
from celosia.gen.binary.train import baseline, collect, data, export, judge, modules, report, train
from celosia.gen.binary.train.recipe import RECIPES, Recipe

ROOT = pathlib.Path(__file__).parents[2]
MODELS = ROOT / "models"
FILES = {"README.md", "config.json", "model.safetensors", "training.json"}
BINARY = [(twin, attention) for twin in ("w1a8", "w1a1") for attention in ("sps", "softmax")]


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def docstrings():
    return data.docstrings(MODELS / "docstrings" / "data.tsv.xz")


@pytest.fixture(scope="module")
def splits(digits, docstrings):
    return {"digits": digits, "docstrings": docstrings}


def recorded(name):
    return json.loads((MODELS / name / "training.json").read_text())


# Data.

def test_digits_are_split_as_stated(digits):
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.test.label.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert not set(digits.train.group.tolist()) & set(digits.test.group.tolist())
    assert 0 == digits.train.inputs.min() and digits.train.inputs.max() == data.MAXIMUM


def test_patches_are_row_after_row():
    image = torch.arange(64).view(1, 8, 8)
    cut = data.patches(image)
    assert cut.shape == (1, 16, 4)
    assert cut[0, 0].tolist() == [0, 1, 8, 9] and cut[0, 1].tolist() == [2, 3, 10, 11] and cut[0, 4].tolist() == [16, 17, 24, 25]


def test_moved_digits_are_pixels_and_an_unmoved_one_is_itself(digits):
    images = digits.train.inputs[:50]
    still = data.move_digits(images, torch.Generator().manual_seed(0), turn=0, grow=0, shift=0)
    assert torch.equal(still, images)
    moved = data.move_digits(images, torch.Generator().manual_seed(0))
    assert not torch.equal(moved, images) and 0 <= moved.min() and moved.max() <= data.MAXIMUM
    assert (middles(moved) - middles(images)).abs().max() < 1.5


def middles(images):  # (n, 8, 8) -> (n, 2), pixels
    place = torch.arange(8.0)
    total = images.sum((1, 2)).float()
    return torch.stack([(images.sum(2) * place).sum(1) / total, (images.sum(1) * place).sum(1) / total], 1)


def test_docstrings_are_split_by_docstring(docstrings):
    train, test = docstrings.train, docstrings.test
    assert docstrings.labels == tuple(sorted(collect.GROUPS))
    assert not set(train.group.tolist()) & set(test.group.tolist())
    assert len(train) > 4 * len(test) and len(docstrings.words) <= data.MAX_WORDS
    rows = {tuple(row) for row in train.inputs.tolist()}
    assert sum(tuple(row) in rows for row in test.inputs.tolist()) < 0.01 * len(test)  # unknown words make some alike
    for part in (train, test):
        assert collect.MIN_WORDS <= part.length.min() and part.length.max() == data.MAX_TOKENS
        assert ((part.inputs != data.PADDING).sum(1) == part.length).all()


def test_file_of_docstrings_is_small():
    assert (MODELS / "docstrings" / "data.tsv.xz").stat().st_size < 300_000


def test_words_are_found_as_the_checkpoint_says():
    words = {"<pad>": 0, "<unk>": 1, "a_b": 2, "9": 3}
    assert data.encode("A_b, 9! c-a_b", words) == [2, 3, 1, 2]
    assert data.encode("9 " * 40, words) == [3] * data.MAX_TOKENS
    assert data.vocabulary(["b a", "a b b c"]) == ("<pad>", "<unk>", "b", "a")


@pytest.mark.parametrize("task", ["digits", "docstrings"])
def test_validation_is_taken_from_the_training_part(splits, task):
    split = splits[task]
    held = data.held_back(split)
    assert len(held.train) + len(held.test) == len(split.train)
    groups = set(held.test.group.tolist())
    assert not groups & set(held.train.group.tolist()) and not groups & set(split.test.group.tolist())


def test_sentences_of_a_docstring():
    text = "Short one. This sentence of the docstring has\neight words. It goes.\n\n>>> an example of eight words or more goes\n"
    assert list(collect.sentences(text)) == ["This sentence of the docstring has eight words."]


def test_collecting_keeps_a_docstring_whole_and_drops_what_two_labels_have(tmp_path):
    shared = "This very sentence stands in two parts of the library."
    (tmp_path / "queue.py").write_text(f'"""One two three four five six seven eight. {shared}"""\n')
    (tmp_path / "tarfile.py").write_text(f'def f():\n    """{shared} Eight seven six five four three two one."""\n')
    lines = [line.split("\t") for line in collect.collect(tmp_path)]
    assert [(label, text) for _, label, _, text in lines] == [
        ("files", "Eight seven six five four three two one."), ("processes", "One two three four five six seven eight.")]


def test_a_linear_model_is_above_chance_by_far(digits):
    assert baseline.right(few(digits), 3.0) > 0.7


def test_features_of_a_sentence_know_no_padding(docstrings):
    found = baseline.features(docstrings.test, docstrings)
    assert found.shape == (len(docstrings.test), len(docstrings.words)) and not found[:, data.PADDING].any()
    assert torch.allclose(found.norm(dim=1), torch.ones(len(found)))
    assert ((found > 0).sum(1) <= docstrings.test.length).all()


# The encoder.

def tiny(twin, attention="sps", task="docstrings"):
    source = {"patch_values": 4, "max_tokens": 16} if task == "digits" else {"vocab_size": 20, "max_tokens": 8}
    return modules.Encoder(modules.EncoderConfig(n_labels=3, hidden_size=32, intermediate_size=40, n_layers=2, n_heads=2,
                                                 twin=twin, attention=attention, **source))


def filled(model, seed=0):
    """Random numbers in all parameters, of a usual size."""
    generator = torch.Generator().manual_seed(seed)
    model.initialise(generator)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim < 2 and not name.endswith("log_threshold"):
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model


def inputs(task, n=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if task == "digits":
        return torch.randint(17, (n, 16, 4), generator=generator), torch.full([n], 16)
    return torch.randint(20, (n, 8), generator=generator), torch.randint(1, 9, (n,), generator=generator)


def test_quantisers_give_what_the_checkpoint_says():
    z = torch.tensor([[-9.0, -0.3, 0.0, 0.26, 0.75, 99.0]])
    eight, one, zero_one = modules.Quantiser(6, 8), modules.Quantiser(6, 1), modules.Quantiser(6, 1, low=0)
    for quantiser in (eight, one, zero_one):
        quantiser.is_set.fill_(True)
        quantiser.log_alpha.data.fill_(0.5).log_()
    for quantiser in (one, zero_one):
        quantiser.beta.data.fill_(0.25)
    assert torch.allclose(eight(z), 0.5 * torch.tensor([[-18.0, -1, 0, 1, 2, 127]]))
    assert torch.allclose(one(z), 0.5 * torch.tensor([[-1.0, -1, -1, 1, 1, 1]]))
    assert torch.allclose(zero_one(z), 0.5 * torch.tensor([[0.0, 0, 0, 1, 1, 1]]))


def test_first_batch_sets_alpha():
    z = torch.tensor([[-4.0, 2.0], [1.0, 1.0]])
    for bits, alpha in ((8, 4 / 127), (1, 2.0)):
        quantiser = modules.Quantiser(2, bits)
        quantiser(z)
        quantiser(100 * z)
        assert quantiser.log_alpha.exp().item() == pytest.approx(alpha)


def test_weights_by_kind():
    weight = torch.tensor([[0.1, -0.3, 0.0, 0.8], [0.0, 0.0, -1.0, 1.0]])
    layers = {kind: modules.Linear(4, 2, kind) for kind in ("binary", "ternary", "planes")}
    for layer in layers.values():
        layer.weight.data.copy_(weight)
    signs, scale = layers["binary"].rounded()
    assert signs.tolist() == [[1, -1, 1, 1], [1, 1, -1, 1]] and torch.allclose(scale, torch.tensor([[0.3], [0.5]]))
    assert layers["ternary"].rounded()[0].tolist() == [[0, -1, 0, 1], [0, 0, -1, 1]]
    odd, scale = layers["planes"].rounded()
    assert (odd % 2 == 1).all() and odd.abs().max() == 255 and (odd * scale - weight).abs().max() <= scale.max() + 1e-6


def test_gradient_passes_where_it_is_said_to():
    u = torch.tensor([-2.0, -1.0, 0.5, 3.0], requires_grad=True)
    y = modules.straight(modules.sign(u), u, -1, 1)
    assert y.tolist() == [-1, -1, 1, 1]
    assert torch.autograd.grad(y.sum(), u)[0].tolist() == [0, 1, 1, 0]
    assert torch.autograd.grad(modules.straight(u.round(), 3 * u).sum(), u)[0].tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("twin, attention", [("float", "sps"), ("ternary", "sps"), *BINARY])
def test_padding_changes_nothing(twin, attention):
    model = filled(tiny(twin, attention)).eval()
    ids, length = inputs("docstrings")
    length = length.clamp(max=7)
    with torch.no_grad():
        model(ids, length)  # sets alpha
        other = torch.where(torch.arange(8) < length[:, None], ids, (ids + 1) % 20)
        signs = [module for module in model.modules() if isinstance(module, modules.Heads)]
        assert len(signs) == (6 if twin in ("w1a8", "w1a1") else 0)
        assert torch.allclose(model(ids, length), model(other, length), atol=1e-5)


@pytest.mark.parametrize("change, words", [
    ({"twin": "w2a2"}, "Twin must be one of"), ({"attention": "linear"}, "must be 'sps' or 'softmax'"),
    ({"vocab_size": 9}, "must be 0, not 4 and 9"), ({"hidden_size": 60}, "multiple of 8")])
def test_shapes_are_checked(change, words):
    with pytest.raises(ValueError, match=words):
        modules.EncoderConfig(**{"n_labels": 2, "max_tokens": 16, "patch_values": 4} | change)


# Training.

def few(split, n=192):
    return dataclasses.replace(split, train=split.train[torch.arange(n)], test=split.test[torch.arange(64)])


def trained(split, twin, attention="sps", seed=1, epochs=2, teacher=None):
    task = "digits" if split.train.inputs.ndim == 3 else "docstrings"
    shape = {"hidden_size": 32, "intermediate_size": 40, "n_layers": 1, "n_heads": 2, "twin": twin, "attention": attention}
    recipe = Recipe(task, shape, batch=32, warmup=3, seed=seed, lost_words=0.1)
    model = train.build(recipe, split)
    model.initialise(torch.Generator().manual_seed(seed))
    losses = []
    train.fit(model, recipe, split, teacher, epochs, lambda epoch, loss: losses.append(loss))
    return model, losses


@pytest.mark.parametrize("task", ["digits", "docstrings"])
@pytest.mark.parametrize("twin, attention", [("float", "sps"), ("ternary", "sps"), *BINARY])
def test_loss_falls(splits, task, twin, attention):
    _, losses = trained(few(splits[task]), twin, attention, epochs=6)
    assert losses[-1] < 0.98 * losses[0]


@pytest.mark.parametrize("twin", ["float", "w1a1"])
def test_training_is_reproducible_from_its_seed(digits, twin):
    def state(seed):
        return trained(few(digits), twin, seed=seed)[0].state_dict()

    first, again, other = state(1), state(1), state(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_student_begins_with_the_weights_of_another_twin():
    parent, student = filled(tiny("float", task="digits"), 3), tiny("w1a1", task="digits")
    student.begin_with(parent)
    assert torch.equal(student.layers[0].up.weight, parent.layers[0].up.weight)
    assert torch.equal(student.position.weight, parent.position.weight)
    assert torch.allclose(student.layers[0].o.weight, parent.layers[0].o.weight / 4)
    assert not student.layers[0].ffn_in.is_set


def test_a_student_learns_from_its_teacher(digits):
    split = few(digits)
    teacher, _ = trained(split, "float")
    alone, taught = trained(split, "w1a8")[0], trained(split, "w1a8", teacher=teacher)[0]
    assert any(not torch.equal(a, b) for a, b in zip(alone.parameters(), taught.parameters()))
    recipe, logits, label = RECIPES["digits-w1a1"], torch.tensor([[2.0, -1.0]]), torch.tensor([0])
    plain = torch.nn.functional.cross_entropy(logits, label)
    assert train._loss(logits, label, None, recipe) == plain
    assert train._loss(logits, label, logits, recipe).item() == pytest.approx((1 - recipe.teacher_share) * plain.item())
    assert train._loss(logits, label, -logits, recipe) > plain


# What is written.

def bare_split(task):
    labels, none = ("a", "b", "c"), data.Part(*[torch.zeros(0)] * 4)
    return data.Split(none, none, labels, () if task == "digits" else tuple(f"w{i}" for i in range(20)))


@pytest.mark.parametrize("task", ["digits", "docstrings"])
@pytest.mark.parametrize("twin, attention", BINARY)
def test_written_files_say_what_the_model_computes(tmp_path, task, twin, attention):
    model = filled(tiny(twin, attention, task)).eval()
    given, length = inputs(task)
    with torch.no_grad():
        model(given, length)  # sets alpha
        ours = model(given, length)
    export.write_checkpoint(model, bare_split(task), tmp_path)
    read = checkpoint.load(tmp_path)
    assert (read.config.act_bits, read.config.attention) == (model.config.activation_bits, attention)
    rows = float_model.image_rows if task == "digits" else float_model.text_rows
    theirs = float_model.pooled(read.config, float_model.forward(read, rows(read, given), length), length)
    close = (ours - theirs).abs().amax(1) < 1e-4 * ours.std()
    assert close.double().mean() > 0.8  # an activation on the edge of its rounding may move a sequence
    assert (ours.argmax(1) == theirs.argmax(1)).double().mean() > 0.9


def test_signs_are_packed_as_promised():
    signs = torch.tensor([[1, -1, -1, -1, -1, -1, -1, 1, -1, 1], [-1] * 10])
    packed = export.pack_signs(signs)
    assert packed.dtype == torch.uint8 and packed.tolist() == [[0b10000001, 0b10], [0, 0]]


def test_only_binary_twins_are_written():
    with pytest.raises(ValueError, match="binary twin, not of ternary"):
        export.tensors(tiny("ternary"))


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = filled(tiny("w1a1"))
    for place in ("one", "two"):
        export.write_checkpoint(model, bare_split("docstrings"), tmp_path / place)
    for name in ("config.json", "model.safetensors", "words.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_command_line(tmp_path, monkeypatch, capsys):
    small = Recipe("digits", {"hidden_size": 32, "intermediate_size": 40, "n_layers": 1, "n_heads": 2}, epochs=1)
    for twin in modules.TWINS:
        shape, start = {**small.shape, "twin": twin}, "" if twin == "float" else "digits-float"
        monkeypatch.setitem(RECIPES, f"digits-{twin}", dataclasses.replace(small, shape=shape, start=start, teacher=start))
    monkeypatch.setattr(train, "load_split", lambda task: few(data.digits()))
    arguments = ["--model", "digits-w1a1", "--work", str(tmp_path / "work")]
    train.main([*arguments, "--out", str(tmp_path / "out")])
    shares = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(shares) == {"float", "ternary", "trained", "reference", "integers"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    train.main([*arguments, "--held-back", "--seed", "2"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["judged"] == "validation"
    with pytest.raises(SystemExit):
        train.main([*arguments, "--out", str(tmp_path / "out"), "--held-back"])


# What is shipped.

LEAST = {"digits-w1a8": 0.97, "digits-w1a1": 0.92, "digits-w1a1-softmax": 0.92}


@pytest.mark.parametrize("name", report.MODELS)
def test_shipped_models_score_what_is_recorded(splits, name):
    record, part = recorded(name), splits[RECIPES[name].task].test
    assert judge.by_integers(MODELS / name, part) == pytest.approx(record["accuracy"]["integers"], abs=1e-4)
    if RECIPES[name].task == "digits":
        assert judge.by_reference(MODELS / name, part) == pytest.approx(record["accuracy"]["reference"], abs=1.5 / len(part))
    assert record["accuracy"]["integers"] >= LEAST.get(name, 0)


@pytest.mark.parametrize("name", report.MODELS)
def test_shipped_folders_hold_what_the_recipes_say(name):
    record, folder = recorded(name), MODELS / name
    recipe = json.loads(json.dumps(dataclasses.asdict(RECIPES[name])))
    assert record["recipes"][name] == recipe
    assert (folder / "README.md").read_text() == report.card(record)
    text = {"words.txt"} if recipe["task"] == "docstrings" else set()
    assert {path.name for path in folder.iterdir()} == FILES | text
    assert sum(path.stat().st_size for path in folder.iterdir()) < (1_100_000 if text else 100_000)


def test_words_are_those_of_the_data(docstrings):
    for name in report.MODELS:
        if RECIPES[name].task == "docstrings":
            assert tuple((MODELS / name / "words.txt").read_text().splitlines()) == docstrings.words


def test_page_shows_the_recorded_figures():
    page = (ROOT / report.PAGE).read_text()
    assert report.insert(page, report.table([recorded(name) for name in report.MODELS])) == page


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="must hold the marks"):
        report.insert("# Page", "| |")

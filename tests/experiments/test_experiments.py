"""The paper's experiments: what each row changes, runs shared between tables, tables that say what the runs scored."""

from __future__ import annotations

import json
import statistics

import pytest
import yaml

import svfap.experiments.lab as laboratory
from svfap import paper
from svfap.cli import main
from svfap.errors import UserError
from svfap.experiments.lab import Lab
from svfap.experiments.run import NAMES, SYNTHETIC, Setup, experiment, open_lab
from svfap.experiments.studies import STUDIES, Row
from svfap.train.loop import TrainResult
from svfap.weights.folder import load_model

MODEL = {"num_frames": 8, "stage_depths": [1, 1, 1], "num_bottleneck_tokens": 8}
PRETRAIN = dict(epochs=1, warmup_epochs=0, batch_size=8, mask_ratio=0.75, precision="fp32", model=MODEL)
FINETUNE = dict(epochs=1, warmup_epochs=0, batch_size=7, rand_augment=False, precision="fp32", model=MODEL)


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """YAML files of tiny trainings."""
    folder = tmp_path_factory.mktemp("configs")
    for name, words in {"pretrain": PRETRAIN, "finetune": FINETUNE}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(words))
    files = {f"{name}_config": folder / f"{name}.yaml" for name in ("pretrain", "finetune")}
    return {**files, "preset": "svfap_debug"}


def rows_of(name: str, lab: Lab) -> dict[str, Row]:
    return {row.name: row for row in lab.rows(STUDIES[name])}


def test_rows_are_those_of_the_papers_tables(tmp_path, faces, configs):
    lab = open_lab(Setup(tmp_path, faces, **configs))
    for name, reference in paper.EXPERIMENTS.items():
        if name == "few_shot":  # the paper's figure tells two of its points
            assert set(reference) < set(rows_of(name, lab))
        elif name != "videomae":  # the paper's row is a checkpoint that was trained elsewhere
            assert list(rows_of(name, lab)) == list(reference)


def test_every_row_is_a_training_of_its_own_and_shared_between_tables(tmp_path, faces, configs):
    lab = open_lab(Setup(tmp_path, faces, seeds=2, **configs))
    base = lab.finetunings(Row(""))
    assert [config.seed for config in base] == [0, 1]
    assert {config.init for config in base} == {str(tmp_path / "runs" / "pretrain-base-seed0")}
    pretrained = {name: lab.pretrainings(row)[0] for name, row in rows_of("masking", lab).items()}
    assert [config.mask_ratio for config in pretrained.values()] == [0.75, 0.85, 0.9, 0.95]
    assert pretrained["75%"] == lab.pretrainings(Row(""))[0], "the base's own ratio is the base"
    for table, row in (("bottleneck", "8"), ("downsampling", "conv"), ("variants", "both"), ("fusion", "yes / no"),
                       ("scale", "100%"), ("schedule", "1 epochs"), ("few_shot", "100%")):  # fmt: skip
        assert lab.finetunings(rows_of(table, lab)[row]) == base, table
    everything = [c for name in STUDIES for row in rows_of(name, lab).values() for c in lab.finetunings(row)]
    by_folder = {}
    for config in everything:
        assert by_folder.setdefault(config.out, config) == config, "one folder, one training"


def test_settings_of_rows(tmp_path, faces, configs):
    lab = open_lab(Setup(tmp_path, faces, **configs))
    fused = {
        name: tuple(c.fuse_stages for c in reversed(lab.configs(row))) for name, row in rows_of("fusion", lab).items()
    }
    words = {"no": False, "yes": True}
    assert fused == {f"{a} / {b}": (words[a], words[b]) for a in words for b in words}
    assert [lab.pretrainings(row)[0].fraction for row in rows_of("scale", lab).values()] == [0.01, 0.05, 0.1, 0.2, 1]
    few = rows_of("few_shot", lab)
    assert [lab.finetunings(row)[0].fraction for row in few.values()] == [0.1, 0.25, 0.5, 1.0] * 2
    assert [lab.finetunings(row)[0].init is None for row in few.values()] == [False] * 4 + [True] * 4
    plain = lab.finetunings(rows_of("variants", lab)["neither"])[0].model
    assert (plain["temporal_pyramid"], plain["spatial_bottleneck"]) == (False, False)
    assert lab.pretrainings(rows_of("variants", lab)["neither"])[0].model == plain


def test_each_seed_may_pretrain_and_weights_may_stand_for_it(tmp_path, faces, configs):
    lab = open_lab(Setup(tmp_path, faces, seeds=2, share_pretraining=False, **configs))
    assert [config.seed for config in lab.pretrainings(Row(""))] == [0, 1]
    assert [config.init[-1] for config in lab.finetunings(Row(""))] == ["0", "1"]
    lab = open_lab(Setup(tmp_path, faces, seeds=2, weights="elsewhere", **configs))
    assert lab.pretrainings(Row("")) == [] and lab.finetunings(Row(""))[0].init == "elsewhere"
    assert len(lab.pretrainings(rows_of("masking", lab)["90%"])) == 2


def test_a_recipe_with_weights_serves_as_it_is(tmp_path, faces):
    """Its `init` stands for the base pre-training, and rows from scratch do without."""
    recipe = SYNTHETIC.parents[3] / "configs" / "dfew.yaml"
    words = yaml.safe_load(recipe.read_text())
    lab = open_lab(Setup(tmp_path, faces, finetune_config=recipe))
    scratch, pretrained = (lab.finetunings(row)[0] for row in rows_of("scratch", lab).values())
    assert (scratch.init, pretrained.init) == (None, words["init"]) and pretrained.dataset == faces
    assert lab.pretrainings(Row("")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_rl: 1", "base_rl"),
        ("epochs: many", "epochs"),
        ("seed: 3", "seed has no use here"),
        ("manifest: a.csv", "manifest has no use here"),
        ("just words", ""),
    ],
)
def test_settings_are_read_as_the_command_reads_them(text, message, tmp_path, faces):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"settings.yaml: .*{message}"):
        open_lab(Setup(tmp_path / "out", faces, finetune_config=file))


def test_settings_may_name_datasets(tmp_path, faces):
    (tmp_path / "a.yaml").write_text(f"dataset: {faces}\nfold: '1'\nbase_lr: 1e-3\nmodel: {{num_frames: 8}}")
    (tmp_path / "b.yaml").write_text(f"dataset: {tmp_path}")
    lab = open_lab(Setup(tmp_path / "out", finetune_config=tmp_path / "a.yaml", pretrain_config=tmp_path / "b.yaml"))
    config = lab.finetunings(Row(""))[0]
    assert (str(config.dataset), config.fold, config.base_lr) == (str(faces), "1", 0.001)
    assert str(lab.pretrain["dataset"]) == str(tmp_path)


def test_experiments_run_without_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without torchrun"):
        experiment("scratch", Setup(tmp_path))


def test_videomae_is_its_checkpoint_or_its_encoder(tmp_path, faces, configs):
    lab = open_lab(Setup(tmp_path, faces, **configs))
    plain, ours = (lab.configs(row)[0] for row in rows_of("videomae", lab).values())
    assert (plain.stage_depths, plain.embed_dim) == ((1,), 48) and ours.embed_dim == 32
    lab = open_lab(Setup(tmp_path, faces, videomae="videomae.pth"))
    rows = rows_of("videomae", lab)
    assert list(rows) == list(paper.EXPERIMENTS["videomae"])
    theirs = lab.finetunings(rows["VideoMAE (Kinetics-400)"])[0]
    assert (theirs.preset, theirs.init, theirs.epochs) == ("videomae_base", "videomae.pth", 100)
    assert lab.configs(rows["VideoMAE (Kinetics-400)"])[0].embed_dim == 768


def test_a_table_says_what_its_runs_scored_and_nothing_is_done_twice(tmp_path, faces, configs, monkeypatch, capsys):
    setup = Setup(tmp_path, faces, seeds=2, **configs)
    table = experiment("downsampling", setup)["downsampling"]
    assert list(table["down-sampling"]) == ["avg", "max", "conv"]
    runs = sorted((tmp_path / "runs").iterdir())
    assert sum(run.name.startswith("pretrain") for run in runs) == 3
    assert sum(run.name.startswith("finetune") for run in runs) == 6
    scores = json.loads((tmp_path / "downsampling.json").read_text())["scores"]
    files = [tmp_path / "runs" / f"finetune-base-to-base-seed{seed}" / "evaluation/metrics.json" for seed in (0, 1)]
    uar = [100 * json.loads(file.read_text())["uar"] for file in files]
    assert [100 * seed["uar"] for seed in scores["conv"]] == uar
    assert table["UAR, %"].iloc[2].startswith(f"{statistics.mean(uar):.1f} ± {statistics.stdev(uar):.1f}")
    assert (
        "62.04 / 74.42" in table["paper: UAR / WAR, %"].iloc[0] and table["paper: M, G, G"].iloc[2] == "77.6, 43.6, –"
    )
    model = load_model(tmp_path / "runs" / "pretrain-temporal_downsample=max-seed0")
    assert model.config.temporal_downsample == "max"
    text = (tmp_path / "downsampling.md").read_text()
    assert "Table 6" in text and "chance is 14.3% UAR" in text and "one pre-training" in text
    assert (tmp_path / "downsampling.png").stat().st_size > 10_000 and (tmp_path / "downsampling.tex").exists()
    done = []
    monkeypatch.setattr(laboratory, "pretrain", lambda config: done.append(config.out) or TrainResult(finished=True))
    before = {file: file.stat().st_mtime_ns for file in files}
    command = [
        "experiment",
        "downsampling",
        "--out",
        str(tmp_path),
        "--dataset",
        str(faces),
        "--seeds",
        "2",
        "--preset",
    ]
    files_of = [f"--{name}={configs[name]}" for name in ("pretrain_config", "finetune_config")]
    assert main([*command, "svfap_debug", *files_of]) == 0
    assert len(done) == 3 and {file: file.stat().st_mtime_ns for file in files} == before
    assert "avg" in capsys.readouterr().out


def test_scratch_against_pretrained_and_reconstructions(tmp_path, faces, configs):
    setup = Setup(tmp_path, faces, seeds=1, **configs)
    table = experiment("scratch", setup)["scratch"]
    assert list(table["training"]) == ["from scratch", "pre-trained"]
    assert load_model(tmp_path / "runs" / "finetune-scratch-to-base-seed0").config.provenance["init"] is None
    table = experiment("reconstructions", setup)["reconstructions"]
    errors = table["mean squared error"].astype(float)
    assert list(table["masking ratio"]) == ["75%", "85%", "90%", "95%"] and errors.between(0.3, 3).all()
    assert (tmp_path / "reconstructions_3.png").exists()


def test_no_runs_are_interrupted_silently(tmp_path, faces, configs, monkeypatch, capsys):
    monkeypatch.setattr(laboratory, "train_one", lambda config: False)
    words = ["--dataset", str(faces), *(f"--{name}={value}" for name, value in configs.items())]
    assert main(["experiment", "scratch", "--out", str(tmp_path), *words]) == 1
    assert "interrupted and saved; the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "experiment 'nonsense' is none of scratch"),
        (["scratch", "--seeds", "0"], "seeds=0"),
        (["scratch", "--dataset", "nowhere"], "nowhere: holds no dataset.json"),
        (["scratch", "--dataset", "FACES", "--fold", "7"], "no fold '7'"),
        (["scratch", "--dataset", "FACES", "--finetune_config", "nowhere.yaml"], "nowhere.yaml: "),
    ],
)
def test_mistakes(words, message, tmp_path, faces, capsys):
    words = [str(faces) if word == "FACES" else word for word in words]
    assert main(["experiment", *words, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


def test_synthetic_settings_are_valid_and_need_no_further_files(tmp_path, monkeypatch):
    """What runs by default: the files lie in the package and are settings that exist."""
    from svfap.synth import dataset as synth

    def described(config):
        assert config.num_pretrain == yaml.safe_load((SYNTHETIC / "synth.yaml").read_text())["num_pretrain"]
        config.out.mkdir(parents=True)
        synth.write_dataset_file(config.out, synth.describe_dataset(config))

    monkeypatch.setattr(synth, "synthesize", described)
    lab = open_lab(Setup(tmp_path))
    tuned, masked = lab.configs(Row(""))
    assert tuned.embed_dim == masked.embed_dim and masked.mask_ratio == 0.75
    for name in STUDIES:
        for row in rows_of(name, lab).values():
            assert lab.finetunings(row) and (row.pretrain is None or lab.pretrainings(row))
    assert set(NAMES) == {*STUDIES, "reconstructions", "all"}


def test_figures_show_rows_seeds_and_the_papers_numbers():
    from svfap.view.figures.studies import study_bars, study_lines

    scores = {"a": {"uar": [0.2, 0.4]}, "b": {"uar": [0.5, 0.5]}}
    for draw in (study_bars, study_lines):
        figure = draw(scores, ["uar"], "what", reference={"b": {"uar": 0.6}})
        (axes,) = figure.axes
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b"]
        heights = [p.get_height() for p in axes.patches] or axes.lines[0].get_ydata()
        assert list(heights) == pytest.approx([30, 50])
        drawn = [tuple(point) for c in axes.collections for point in c.get_offsets().tolist()]
        assert (1, 60) in [(x, round(y)) for x, y in drawn]

"""How each score of a named protocol is made from what the user gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

from ganvas.errors import GanvasError
from ganvas.scores.pictures import Pictures, real
from ganvas.scores.score import Score
from ganvas.scores.scoring import Job, Maker, Missing

Settings = TypeVar("Settings")


def _settings(kind: type[Settings], job: Job, **more: Any) -> Settings:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    given = {**job.settings, **more}
    return kind(**{key: value for key, value in given.items() if key in known})


def _tool(job: Job, name: str, what: str) -> str:
    if name not in job.tools:
        raise Missing(f"give {what} with --use {name}=PATH")
    return job.tools[name]


def _distances(
    which: Sequence[Literal["frechet", "kid", "precision", "recall"]], job: Job
) -> Sequence[Score]:
    from ganvas.networks.weights import NoFeatures
    from ganvas.scores.features import DEFAULT
    from ganvas.scores.frechet import FrechetProtocol, feature_scores

    backend = job.settings.get("features") or job.tools.get("features", DEFAULT)
    protocol = _settings(FrechetProtocol, job, features=backend)
    weights = job.tools.get("weights")
    try:
        return feature_scores(_not_the_reference(job), job.store, protocol, which, weights=weights)
    except NoFeatures as reason:
        raise Missing(str(reason)) from None


def _not_the_reference(job: Job) -> Pictures:
    """What is scored; of real images, which are the reference themselves, as many of the training split."""
    pictures, store = job.target.pictures, job.store
    if pictures.kind == "generated" or pictures.kind == "folder" or not store.info.splits["train"]:
        return pictures
    num = min(len(pictures), store.info.splits["train"])
    return replace(real(store, split="train", num=num), about=pictures.about, kind=pictures.kind)


def _inception(job: Job) -> Sequence[Score]:
    from ganvas.networks.weights import NoFeatures
    from ganvas.scores.inception_score import InceptionProtocol, inception_score

    classifier = job.settings.get(
        "classifier"
    )  # of a protocol that has no other; the file is that of its FID
    if classifier is None:
        classifier = _tool(job, "classifier", "a classifier of this data set ('ganvas train classifier')")
    elif "weights" in job.tools:
        classifier = f"{classifier}:{job.tools['weights']}"
    protocol = _settings(InceptionProtocol, job, classifier=classifier)
    try:
        return [inception_score(job.target.pictures, job.store, protocol)]
    except NoFeatures as reason:
        raise Missing(str(reason)) from None


def _retrieval(job: Job) -> Sequence[Score]:
    from ganvas.scores.retrieval import RetrievalProtocol, r_precision

    ships = (files("ganvas.scores") / "retrievers" / job.store.info.name).is_dir()
    retriever = job.tools.get("retriever") or (job.store.info.name if ships else None)
    if retriever is None:
        raise Missing("give a dual encoder with --use retriever=RUN ('ganvas train retriever' makes one)")
    return [
        r_precision(job.target.pictures, job.store, _settings(RetrievalProtocol, job, retriever=retriever))
    ]


def _damsm(job: Job) -> Sequence[Score]:
    from ganvas.scores.damsm_encoders import open_damsm
    from ganvas.scores.retrieval import RetrievalProtocol, r_precision

    folder = job.tools.get("damsm") or (job.target.path if job.target.model is not None else None)
    if folder is None:
        raise Missing(
            "give the encoders with --use damsm=RUN (a run of 'damsm-...', or of a system with DAMSM)"
        )
    try:
        encoders, called = open_damsm(Path(folder))
    except GanvasError as reason:
        if "damsm" in job.tools:
            raise
        raise Missing(str(reason)) from None
    protocol = _settings(RetrievalProtocol, job, retriever=called)
    return [r_precision(job.target.pictures, job.store, protocol, encoder=encoders, name="r-precision damsm")]


def _damsm_retrieval(job: Job) -> Sequence[Score]:
    from ganvas.scores.damsm_encoders import open_damsm
    from ganvas.scores.damsm_retrieval import DamsmRetrievalProtocol, damsm_retrieval

    encoders, _ = open_damsm(Path(_tool(job, "damsm", "the run of its encoders ('ganvas train damsm-...')")))
    protocol = _settings(DamsmRetrievalProtocol, job, split=job.protocol.split)
    return damsm_retrieval(encoders, job.store, protocol)


def _attributes(job: Job) -> Sequence[Score]:
    from ganvas.scores.emoji_attributes import AttributeProtocol, emoji_attributes

    return [emoji_attributes(job.target.pictures, job.store, _settings(AttributeProtocol, job))]


def _soa(job: Job) -> Sequence[Score]:
    from ganvas.scores.detectors import DetectorSettings, load_detector
    from ganvas.scores.soa import SoaProtocol, soa, soa_of_real
    from ganvas.scores.soa_captions import read_caption_lists

    if job.target.pictures.kind not in ("generated", "real"):
        raise Missing("SOA has captions of its own, so it scores models and real images only")
    lists = read_caption_lists(Path(_tool(job, "captions", "the caption lists (soa_captions.json.gz)")))
    detector = load_detector(
        DetectorSettings(weights=_tool(job, "detector", "the weights of YOLOv3 (yolov3.weights)"))
    )
    protocol = _settings(SoaProtocol, job)
    if job.target.model is None:
        return soa_of_real(job.store, lists, detector, protocol)
    folder = None if job.target.path is None else job.target.path / "soa"  # a long work, kept by category
    return soa(job.target.model, lists, detector, protocol, folder=folder)


def _style(job: Job) -> Sequence[Score]:
    from ganvas.scores.style_experiment import FEWEST, fitting_protocol, style_experiment, text_baseline

    model, split = job.target.model, job.protocol.split
    if model is None:
        return []
    if not model.trained.get("style"):
        raise Missing("the model has no trained style encoder (of gan-int-cls, training.images.style)")
    if job.store.info.splits[split] < FEWEST:
        raise Missing(f"split '{split}' has fewer than {FEWEST} images")
    protocol = fitting_protocol(job.store, split, job.tools.get("style"))
    return [make(model, job.store, protocol) for make in (style_experiment, text_baseline)]


def _caption_spread(job: Job) -> Sequence[Score]:
    from ganvas.scores.caption_spread import SpreadProtocol, caption_spread

    if job.target.model is None:
        return []
    features = {"features": job.tools["features"]} if "features" in job.tools else {}
    protocol = _settings(SpreadProtocol, job, split=job.protocol.split, **features)
    return [caption_spread(job.target.model, job.store, protocol, weights=job.tools.get("weights"))]


def _size(job: Job) -> Sequence[Score]:
    from ganvas.scores.model_size import SizeProtocol, model_size

    if job.target.model is None:
        return []
    return model_size(job.target.model, _settings(SizeProtocol, job), folder=job.target.path)


MAKERS: dict[str, Maker] = {
    "distances": lambda job: _distances(("frechet", "kid", "precision", "recall"), job),
    "fid": lambda job: _distances(("frechet",), job),
    "inception score": _inception,
    "r-precision": _retrieval,
    "r-precision damsm": _damsm,
    "damsm retrieval": _damsm_retrieval,
    "emoji attributes": _attributes,
    "soa": _soa,
    "style": _style,
    "caption spread": _caption_spread,
    "size": _size,
}
"""By the names that protocols use."""

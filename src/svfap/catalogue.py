"""Published models that do not come with the package: where each is, what it was trained on, and what its authors report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NOT_STATED = "not stated"
AUTHORS, AUTHORS_PAGE = "authors", "https://github.com/sunlicai/SVFAP"
_SHARED = "https://unioulu-my.sharepoint.com/:u:/g/personal/lsun24_univ_yo_oulu_fi/"


@dataclass(frozen=True)
class Published:
    """A published model.

    name: as users write it: `authors/dfew-1` is the file `dfew-1.pth` in a folder `authors`; `hf://OWNER/NAME` is on the Hugging
    Face Hub. dataset: name of the dataset that it was trained on, as `svfap prepare` knows it, which gives labels, input and
    the licence of the data; None for videos of another kind. fold: of that dataset. preset: its encoder. img_size: of its
    pictures, in pixels.
    address: where it is. page: where its authors describe it. licence: of the weights, as stated by their authors.
    reported: UAR and WAR in percent that its authors report for it.
    """

    name: str
    preset: str
    address: str
    page: str
    dataset: str | None = None
    fold: str | None = None
    licence: str = NOT_STATED
    trained_on: str = ""
    img_size: int = 160
    reported: tuple[float, float] | None = None

    @property
    def file(self) -> str | None:
        """What the downloaded file is called here; None for a model of the Hub."""
        return None if self.name.startswith("hf://") else f"{self.name}.pth"


def _by_the_authors(
    name: str, dataset: str, key: str, reported: tuple[float, float] | None = None, fold: str | None = None
) -> Published:
    address, page = _SHARED + key, AUTHORS_PAGE
    return Published(f"{AUTHORS}/{name}", "svfap_base", address, page, dataset, fold, reported=reported)


CATALOGUE = (
    _by_the_authors("voxceleb2", "voxceleb2", "EUhhmb_5-ltMt7P7pjm3D1IBkdREeGnOrAW4kGrfEZSFxA?e=Iqarze"),
    _by_the_authors("dfew-1", "dfew", "EXEnKAHX2ZxPrWvUAJ9Glg0B6GuYbw8ox9Zs3jn7lJ7jJA?e=ffXMQK", (63.31, 75.31), "1"),
    _by_the_authors("dfew-2", "dfew", "EfkLBkkmGqpPigAzL_S_FFABfuOShaNkrlcsSJLFrw2nHw?e=mKagKP", (58.82, 71.68), "2"),
    _by_the_authors("dfew-3", "dfew", "ESbBQRwY--9Iuah3lUuuglkBwwkevZF4ftGKEDMO-HhxUA?e=3C2rkm", (64.88, 74.96), "3"),
    _by_the_authors("dfew-4", "dfew", "EaOR9NCzaYVNuqop89cNI94BlqrzeiRmXP-amDL2tTCw5g?e=obLurU", (63.73, 74.65), "4"),
    _by_the_authors("dfew-5", "dfew", "EUDW_x4ly-hNlUs-PhSqKMMBRnP1ku16eu--dS9KrgeT6Q?e=I4VlyF", (68.39, 77.44), "5"),
    _by_the_authors("ferv39k", "ferv39k", "EeiFyC-HLaBAntblXgeOt5sBB5KJJttxbQn7iMlotUvX2A?e=OqqIST", (43.05, 52.86)),
    _by_the_authors("mafw-1", "mafw", "EYdknPrtbo1Mt1NYjUqJtsIBVzBCPIU-HPPwhCcuvUg1hA?e=bKnU4U", (38.40, 49.10), "1"),
    _by_the_authors("mafw-2", "mafw", "EUWnPxO1gbNInVOeFaUPL8EBzfPvfWKaxidusQv8_J6h2Q?e=853E0o", (40.94, 53.95), "2"),
    _by_the_authors("mafw-3", "mafw", "Eftx7YovMn9Mqn6FwfsQFdoBCFBxDu4fSWnw9307Xs_OBA?e=F0r91e", (46.27, 59.68), "3"),
    _by_the_authors("mafw-4", "mafw", "EaBj2GjlldBKt8kwxeve01QBOISd2PuvR16CLT2GOVZ7Ww?e=aofdJD", (47.78, 61.30), "4"),
    _by_the_authors("mafw-5", "mafw", "ET1EUbbzVABKlko3ibr2zNoBq1_h7UvQ_WP4-jhtH1M-SQ?e=vLzP80", (44.17, 57.56), "5"),
    Published(
        "hf://MCG-NJU/videomae-base", "videomae_base", "https://huggingface.co/MCG-NJU/videomae-base",
        "https://github.com/MCG-NJU/VideoMAE", trained_on="Kinetics-400, videos of actions; no affect", img_size=224,
    ),
)  # fmt: skip


def is_of_authors(name: str) -> bool:
    """Whether a name is written as those of the authors' files; it is not looked up on the Hub, as hf://authors/NAME is."""
    return name.startswith(f"{AUTHORS}/")


def published(name: str) -> Published | None:
    """The entry of a name, also with the suffix of its file; None for any other name."""
    return next((entry for entry in CATALOGUE if name in (entry.name, entry.file)), None)


def entry_of_file(file: Path) -> Published | None:
    """The entry whose name a checkpoint file has: `dfew-1.pth`, or .pt, in a folder `authors`; None for any other file."""
    return published("/".join(file.with_suffix("").absolute().parts[-2:])) if file.suffix in (".pth", ".pt") else None

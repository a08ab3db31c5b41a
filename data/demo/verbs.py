"""Italian verb forms: present, imperfetto, passato remoto, participle, gerund; irregular verbs are in verbs.yaml."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from data.demo.morphology import agree

# Verbs. Person is 1, 2 or 3; the tables hold six forms: io tu lui noi voi loro.
_REGULAR = {
    "presente": {"are": "o i a iamo ate ano", "ere": "o i e iamo ete ono", "ire": "o i e iamo ite ono"},
    "imperfetto": {
        "are": "avo avi ava avamo avate avano",
        "ere": "evo evi eva evamo evate evano",
        "ire": "ivo ivi iva ivamo ivate ivano",
    },
    "passato remoto": {
        "are": "ai asti ò ammo aste arono",
        "ere": "ei esti é emmo este erono",
        "ire": "ii isti ì immo iste irono",
    },
}
_PARTICIPLE = {"are": "ato", "ere": "uto", "ire": "ito"}
_GERUND = {"are": "ando", "ere": "endo", "ire": "endo"}


@dataclass(frozen=True)
class Irregular:
    """What an irregular verb does differently; everything else follows its conjugation."""

    remote: str = ""
    """Third person singular of the passato remoto (prese): gives presi, prese, presero."""
    participle: str = ""
    stem: str = ""
    """Stem of the imperfetto, the gerund and the regular persons of the passato remoto (fac-, dic-, bev-)."""
    present: str = ""
    """The six forms of the present."""
    remote_all: str = ""
    """The six forms of the passato remoto, where the strong pattern does not hold."""
    imperfect: str = ""
    conjugation: str = ""
    """Endings to use instead of those of the infinitive (fare goes like -ere)."""


@cache
def irregular_verbs() -> dict[str, Irregular]:
    with open(Path(__file__).with_name("verbs.yaml"), encoding="utf-8") as f:
        return {infinitive: Irregular(**forms) for infinitive, forms in yaml.safe_load(f).items()}


# Verbs in -ire that insert -isc- (finisco) outnumber the others; these do not.
_IRE_WITHOUT_ISC = {
    "dormire",
    "sentire",
    "partire",
    "aprire",
    "coprire",
    "offrire",
    "seguire",
    "servire",
    "vestire",
    "cucire",
}


def _stem_and_class(infinitive: str) -> tuple[str, str]:
    verb = irregular_verbs().get(infinitive, Irregular())
    conjugation = verb.conjugation or infinitive[-3:]
    return verb.stem or infinitive[:-3], conjugation


def _attach(stem: str, ending: str, conjugation: str) -> str:
    """Spelling at the joint: cercare -> cerchi, mangiare -> mangi, studiare -> studi."""
    if conjugation == "are" and ending.startswith("i"):
        if stem.endswith(("c", "g")):
            return stem + "h" + ending
        if stem.endswith("i"):
            return stem + ending[1:]
    return stem + ending


@cache
def conjugate(infinitive: str, tense: str, person: int = 3, plural: bool = False) -> str:
    """A finite form: tense is "presente", "imperfetto" or "passato remoto"."""
    index = person - 1 + (3 if plural else 0)
    verb = irregular_verbs().get(infinitive, Irregular())
    table = {"presente": verb.present, "imperfetto": verb.imperfect, "passato remoto": verb.remote_all}[tense]
    if table:
        return table.split()[index]
    stem, conjugation = _stem_and_class(infinitive)
    if tense == "passato remoto" and verb.remote and index in (0, 2, 5):
        return {0: verb.remote[:-1] + "i", 2: verb.remote, 5: verb.remote + "ro"}[index]
    if tense == "presente" and conjugation == "ire" and infinitive not in _IRE_WITHOUT_ISC and index in (0, 1, 2, 5):
        return stem + {0: "isco", 1: "isci", 2: "isce", 5: "iscono"}[index]
    return _attach(stem, _REGULAR[tense][conjugation].split()[index], conjugation)


def participle(infinitive: str, gender: str = "m", plural: bool = False) -> str:
    """The past participle, agreeing: rotto, rotta, rotti, rotte."""
    verb = irregular_verbs().get(infinitive, Irregular())
    stem, conjugation = _stem_and_class(infinitive)
    return agree(verb.participle or stem + _PARTICIPLE[conjugation], gender, plural)


def gerund(infinitive: str) -> str:
    """giocando, leggendo, dormendo, facendo."""
    stem, conjugation = _stem_and_class(infinitive)
    return stem + _GERUND[conjugation]


_MODEL_FORMS = {
    "parla": ("presente", False),
    "parlano": ("presente", True),
    "parlava": ("imperfetto", False),
    "parlavano": ("imperfetto", True),
    "parlò": ("passato remoto", False),
    "parlarono": ("passato remoto", True),
}


@dataclass(frozen=True)
class ItalianVerb:
    """A verb for templates; the format is the same form of "parlare": ``f"{bere:parlarono}"`` gives "bevvero"."""

    infinitive: str

    def __format__(self, form: str) -> str:
        if form == "parlare":
            return self.infinitive
        if form == "parlando":
            return gerund(self.infinitive)
        tense, plural = _MODEL_FORMS[form]
        return conjugate(self.infinitive, tense, 3, plural)

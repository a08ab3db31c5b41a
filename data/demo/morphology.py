"""Italian morphology: articles, elision, articulated prepositions, plurals, agreement, verb forms.

Covers what children's stories and short encyclopedic texts need; an unknown irregular word is added to a table here,
never patched in a template. The choice of article looks at the first sound of the word that follows it, so that
"lo zaino" and "il vecchio zaino" both come out right.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

# Impure s, z, gn, pn, ps, x, y and semivowels take "lo", "uno", "gli".
_LO = re.compile(r"(s[^aeiouàèéìòùh]|sc[ei]|z|gn|pn|ps|pt|x|y|io|ia|ie)", re.IGNORECASE)
_VOWEL = re.compile(r"h?[aeiouàèéìòù]", re.IGNORECASE)

_DEFINITE = {("m", False): "il", ("m", True): "i", ("f", False): "la", ("f", True): "le"}
_PREPOSITION_STEMS = {"di": "de", "a": "a", "da": "da", "in": "ne", "su": "su"}
_ARTICULATED = {"il": "l", "lo": "llo", "la": "lla", "l'": "ll'", "i": "i", "gli": "gli", "le": "lle"}


def takes_lo(word: str) -> bool:
    """True before sounds that ask for lo / uno / gli: zaino, gnomo, sgabello, sciopero, yogurt."""
    return _LO.match(word) is not None


def starts_with_vowel(word: str) -> bool:
    """True where the article elides; a silent h counts as a vowel (l'hotel), a semivowel does not (lo iodio)."""
    return _VOWEL.match(word) is not None and not takes_lo(word)


def definite_article(following: str, gender: str, plural: bool = False) -> str:
    """il, lo, l', la, i, gli, le before the word ``following``."""
    if plural:
        wants_gli = gender == "m" and (takes_lo(following) or starts_with_vowel(following))
        return "gli" if wants_gli else _DEFINITE[gender, True]
    if starts_with_vowel(following):
        return "l'"
    return "lo" if gender == "m" and takes_lo(following) else _DEFINITE[gender, False]


def indefinite_article(following: str, gender: str) -> str:
    """un, uno, una, un' before the word ``following``."""
    if gender == "f":
        return "un'" if starts_with_vowel(following) else "una"
    return "uno" if takes_lo(following) else "un"


def partitive_article(following: str, gender: str, plural: bool = False) -> str:
    """del, dello, dell', della, dei, degli, delle: the Italian for "some"."""
    return articulated("di", following, gender, plural)


def articulated(preposition: str, following: str, gender: str, plural: bool = False) -> str:
    """The preposition merged with the definite article: nello, dell', sugli. ``con`` and ``per`` stay apart."""
    article = definite_article(following, gender, plural)
    if preposition not in _PREPOSITION_STEMS:
        return f"{preposition} {article}"
    return _PREPOSITION_STEMS[preposition] + _ARTICULATED[article]


def join(article: str, words: str) -> str:
    """Write the article before its word, without a space after an apostrophe."""
    return article + words if article.endswith("'") else f"{article} {words}"


_EUPHONY = re.compile(r"\b(?:([aA]) (?=[aA])|([eE]) (?=[eE]))")


def euphony(text: str) -> str:
    """ad Anna, ed Elena: the d between two equal vowels, as today's usage has it (not: ed Anna)."""
    return _EUPHONY.sub(lambda match: (match.group(1) or match.group(2)) + "d ", text)


_ONSET = r"(?:[bcdfgptv][lr]|ch[lr]?|gh[lr]?|gn|gl(?=i)|sc|s[bcdfgpqtv][lr]?|qu|[bcdfghlmnpqrstvz])"
_V = "[aeiouàèéìòù]"
# Before an onset that follows a vowel or a liquid or nasal coda, and inside a double consonant.
_BREAK = re.compile(
    rf"(?<={_V})(?={_ONSET}{_V})|(?<={_V}[lmnr])(?={_ONSET}{_V})|(?<={_V}([bcdfgpstvz]))(?=\1[lr]?{_V})", re.IGNORECASE
)


def syllables(word: str) -> list[str]:
    """Where a word may be hyphenated: cam-pa-na, ca-stel-lo, so-prat-tut-to. Diphthongs and hiatus stay whole."""
    cuts = [0, *(match.start() for match in _BREAK.finditer(word)), len(word)]
    return [word[a:b] for a, b in pairwise(cuts)]


_IRREGULAR_PLURALS = {
    "uomo": "uomini", "uovo": "uova", "dito": "dita", "ginocchio": "ginocchia", "mano": "mani", "ala": "ali",
    "bue": "buoi", "zio": "zii", "amico": "amici", "greco": "greci", "medico": "medici", "moglie": "mogli",
    "tempio": "templi", "dio": "dei", "braccio": "braccia", "labbro": "labbra", "paio": "paia", "osso": "ossa",
    "radio": "radio", "foto": "foto", "moto": "moto", "auto": "auto", "bici": "bici", "camion": "camion",
    "trio": "trii", "pendio": "pendii", "mormorio": "mormorii", "puzzle": "puzzle", "chimico": "chimici",
}  # fmt: skip


def plural_noun(noun: str, gender: str) -> str:
    """The plural of a noun; the gender decides between palla -> palle and poeta -> poeti."""
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    last = noun[-1]
    if last not in "aeo" or len(noun) <= 2:  # città, caffè, crisi, robot, re
        return noun
    if last == "e":
        return noun[:-1] + "i"
    if last == "o":
        return _plural_o(noun)
    return _plural_a(noun, gender)


def _plural_o(word: str) -> str:
    if word.endswith(("co", "go")):
        # -ico is sdrucciolo and palatal (simpatici); the rest keeps its hard sound (parchi, laghi, funghi).
        return word[:-1] + ("i" if word.endswith("ico") and word != "fico" else "hi")
    return word[:-1] if word.endswith("io") else word[:-1] + "i"


def _plural_a(word: str, gender: str) -> str:
    ending = "i" if gender == "m" else "e"
    if word.endswith(("ca", "ga")):
        return word[:-1] + "h" + ending
    if gender == "f" and word.endswith(("cia", "gia")):
        # camicia -> camicie after a vowel, arancia -> arance after a consonant.
        return word[:-1] + "e" if word[-4] in "aeiou" else word[:-2] + "e"
    return word[:-1] + ending


INVARIABLE_ADJECTIVES = frozenset({"blu", "rosa", "viola", "marrone chiaro", "verde acqua"})


def agree(adjective: str, gender: str, plural: bool = False) -> str:
    """The form of an adjective or participle for a gender and number; given in the masculine singular."""
    if adjective in INVARIABLE_ADJECTIVES:
        return adjective
    last = adjective[-1]
    if last == "e":
        return adjective[:-1] + "i" if plural else adjective
    if last == "a":  # egoista, entusiasta
        return _plural_a(adjective, gender) if plural else adjective
    if last != "o":
        return adjective
    feminine = adjective[:-1] + "a"
    if gender == "m":
        return _plural_o(adjective) if plural else adjective
    return _plural_a(feminine, "f") if plural else feminine


_BELLO = {"il": "bel", "lo": "bello", "l'": "bell'", "la": "bella", "i": "bei", "gli": "begli", "le": "belle"}


def agree_before(adjective: str, noun: str, gender: str, plural: bool = False) -> str:
    """The form before a noun, where *bello* takes the endings of the article: bel libro, bell'ascia, begli zaini."""
    if adjective == "bello":
        return _BELLO[definite_article(noun, gender, plural)]
    return agree(adjective, gender, plural)


@dataclass(frozen=True)
class ItalianNoun:
    """A noun phrase for templates: ``f"{palla:nel}"`` gives "nella palla"; the format is the masculine model form.

    Formats: "" the bare words, il, un, del al dal nel sul con per (with article), a in (without: a scuola, in piazza),
    mio tuo suo (with article); plurals i dei ai dai nei sui and s (bare); o (the ending o/a), lo (the clitic lo/la).
    """

    word: str
    gender: str
    adjective: str = ""
    before: bool = False
    """The adjective stands before the noun: un vecchio libro."""
    invariable_plural: str = field(default="")

    @property
    def plural(self) -> str:
        return self.invariable_plural or plural_noun(self.word, self.gender)

    def words(self, plural: bool = False) -> str:
        noun = self.plural if plural else self.word
        if not self.adjective:
            return noun
        if self.before:
            return join(agree_before(self.adjective, noun, self.gender, plural), noun)
        return f"{noun} {agree(self.adjective, self.gender, plural)}"

    def __format__(self, form: str) -> str:
        return _format_noun(self, form)


_MERGED = {"del": "di", "al": "a", "dal": "da", "nel": "in", "sul": "su", "con": "con", "per": "per"}
_MERGED_PLURAL = {"dei": "di", "ai": "a", "dai": "da", "nei": "in", "sui": "su"}


@cache
def _format_noun(noun: ItalianNoun, form: str) -> str:
    feminine = noun.gender == "f"
    if form == "o":
        return "a" if feminine else "o"
    if form == "lo":
        return "la" if feminine else "lo"
    if form in ("", "s"):
        return noun.words(plural=form == "s")
    if form == "i" or form in _MERGED_PLURAL:
        words = noun.words(plural=True)
        if form == "i":
            return join(definite_article(words, noun.gender, True), words)
        return join(articulated(_MERGED_PLURAL[form], words, noun.gender, True), words)
    words = noun.words()
    if form in ("a", "in"):
        return f"{form} {words}"
    if form == "un":
        return join(indefinite_article(words, noun.gender), words)
    if form == "il":
        return join(definite_article(words, noun.gender), words)
    if form in ("mio", "tuo", "suo"):
        return ("la " + form[:-1] + "a " if feminine else f"il {form} ") + words
    return join(articulated(_MERGED[form], words, noun.gender), words)

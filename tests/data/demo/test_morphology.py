"""Italian and English forms against a table checked by hand."""

import pytest

from data.demo import english
from data.demo.english import EnglishNoun
from data.demo.lexicon import Person, lexicon
from data.demo.morphology import (
    ItalianNoun,
    agree,
    agree_before,
    articulated,
    definite_article,
    euphony,
    join,
    plural_noun,
    syllables,
)
from data.demo.verbs import conjugate, gerund, participle

# noun, gender, model form, the phrase
PHRASE_TABLE = """
zaino m il lo zaino
zaino m un uno zaino
zaino m nel nello zaino
zaino m i gli zaini
zaino m dei degli zaini
gnomo m il lo gnomo
gnomo m i gli gnomi
gnomo m sui sugli gnomi
sgabello m un uno sgabello
specchio m al allo specchio
specchio m i gli specchi
xilofono m il lo xilofono
sasso m il il sasso
sasso m i i sassi
isola f il l'isola
isola f i le isole
isola f sul sull'isola
isola f un un'isola
ascia f un un'ascia
ascia f i le asce
ascia f del dell'ascia
arancia f i le arance
camicia f i le camicie
spiaggia f i le spiagge
orologio m i gli orologi
orologio m dal dall'orologio
aquilone m mio il mio aquilone
anello m un un anello
amico m i gli amici
hotel m il l'hotel
parco m i i parchi
lago m nei nei laghi
barca f i le barche
mucca f s mucche
chiave f sui sulle chiavi
robot m i i robot
camion m i i camion
uovo m s uova
mano f i le mani
zoo m al allo zoo
stadio m nel nello stadio
struzzo m i gli struzzi
bambola f con con la bambola
scuola f a a scuola
piazza f in in piazza
palla f o a
palla f lo la
libro m lo lo
"""
PHRASES = [line.split(" ", 3) for line in PHRASE_TABLE.strip().splitlines()]


@pytest.mark.parametrize(("noun", "gender", "form", "phrase"), PHRASES, ids=lambda value: value)
def test_noun_phrase(noun: str, gender: str, form: str, phrase: str) -> None:
    assert format(ItalianNoun(noun, gender), form) == phrase


@pytest.mark.parametrize(
    ("noun", "adjective", "before", "form", "phrase"),
    [
        (("palla", "f"), "rosso", False, "un", "una palla rossa"),
        (("palla", "f"), "rosso", False, "i", "le palle rosse"),
        (("zaino", "m"), "vecchio", True, "un", "un vecchio zaino"),
        (("zaino", "m"), "vecchio", True, "i", "i vecchi zaini"),
        (("zaino", "m"), "bello", True, "un", "un bello zaino"),
        (("libro", "m"), "bello", True, "un", "un bel libro"),
        (("aquilone", "m"), "bello", True, "il", "il bell'aquilone"),
        (("ascia", "f"), "bello", True, "un", "una bell'ascia"),
        (("zaino", "m"), "bello", True, "i", "i begli zaini"),
        (("ascia", "f"), "piccolo", True, "un", "una piccola ascia"),
        (("ascia", "f"), "verde", False, "un", "un'ascia verde"),
        (("palla", "f"), "blu", False, "i", "le palle blu"),
        (("isola", "f"), "strano", False, "nel", "nell'isola strana"),
    ],
)
def test_noun_with_adjective(noun: tuple[str, str], adjective: str, before: bool, form: str, phrase: str) -> None:
    assert format(ItalianNoun(*noun, adjective, before), form) == phrase


@pytest.mark.parametrize(
    ("adjective", "forms"),
    [
        ("rosso", "rosso rossa rossi rosse"),
        ("vecchio", "vecchio vecchia vecchi vecchie"),
        ("bianco", "bianco bianca bianchi bianche"),
        ("stanco", "stanco stanca stanchi stanche"),
        ("simpatico", "simpatico simpatica simpatici simpatiche"),
        ("lungo", "lungo lunga lunghi lunghe"),
        ("pigro", "pigro pigra pigri pigre"),
        ("gentile", "gentile gentile gentili gentili"),
        ("grigio", "grigio grigia grigi grigie"),
        ("blu", "blu blu blu blu"),
        ("egoista", "egoista egoista egoisti egoiste"),
    ],
)
def test_adjective_agreement(adjective: str, forms: str) -> None:
    assert [agree(adjective, gender, plural) for plural in (False, True) for gender in "mf"] == forms.split()


def test_small_words() -> None:
    assert [articulated(p, "albero", "m") for p in ("di", "a", "da", "in", "su", "con")] == [
        "dell'", "all'", "dall'", "nell'", "sull'", "con l'",
    ]  # fmt: skip
    assert definite_article("vecchio", "m") == "il"  # the article looks at the next word, not at the noun
    assert agree_before("bello", "specchio", "m") == "bello"
    assert join("l'", "isola") == "l'isola"
    assert euphony("a Anna e a Elena e Emma, a Irene") == "ad Anna e a Elena ed Emma, a Irene"
    assert ["-".join(syllables(w)) for w in ("castello", "bottiglia", "montagna", "bambina", "inseguirono")] == [
        "ca-stel-lo", "bot-ti-glia", "mon-ta-gna", "bam-bi-na", "in-se-gui-ro-no",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "forms"),
    [
        # presente tu, imperfetto lui, loro, passato remoto io, lui, loro, participio f, gerundio
        ("giocare", "giochi giocava giocavano giocai giocò giocarono giocata giocando"),
        ("mangiare", "mangi mangiava mangiavano mangiai mangiò mangiarono mangiata mangiando"),
        ("cercare", "cerchi cercava cercavano cercai cercò cercarono cercata cercando"),
        ("dormire", "dormi dormiva dormivano dormii dormì dormirono dormita dormendo"),
        ("finire", "finisci finiva finivano finii finì finirono finita finendo"),
        ("essere", "sei era erano fui fu furono stata essendo"),
        ("avere", "hai aveva avevano ebbi ebbe ebbero avuta avendo"),
        ("fare", "fai faceva facevano feci fece fecero fatta facendo"),
        ("dire", "dici diceva dicevano dissi disse dissero detta dicendo"),
        ("bere", "bevi beveva bevevano bevvi bevve bevvero bevuta bevendo"),
        ("prendere", "prendi prendeva prendevano presi prese presero presa prendendo"),
        ("rompere", "rompi rompeva rompevano ruppi ruppe ruppero rotta rompendo"),
        ("cadere", "cadi cadeva cadevano caddi cadde caddero caduta cadendo"),
        ("andare", "vai andava andavano andai andò andarono andata andando"),
        ("dare", "dai dava davano diedi diede diedero data dando"),
        ("raccogliere", "raccogli raccoglieva raccoglievano raccolsi raccolse raccolsero raccolta raccogliendo"),
        ("costruire", "costruisci costruiva costruivano costruii costruì costruirono costruita costruendo"),
    ],
)
def test_verb_forms(verb: str, forms: str) -> None:
    assert [
        conjugate(verb, "presente", 2),
        conjugate(verb, "imperfetto"),
        conjugate(verb, "imperfetto", 3, plural=True),
        conjugate(verb, "passato remoto", 1),
        conjugate(verb, "passato remoto"),
        conjugate(verb, "passato remoto", 3, plural=True),
        participle(verb, "f"),
        gerund(verb),
    ] == forms.split()


def test_persons_take_the_forms_of_their_gender() -> None:
    anna, marco = Person("Anna", "f"), Person("Marco", "m")
    assert f"{anna:he} {anna:his} {anna:boy} {anna:lo} {anna:gli} stanc{anna:o}" == "she her girl la le stanca"
    assert f"{marco:he} {marco:his} {marco:boy} {marco:lo} {marco:gli} stanc{marco:o}" == "he his boy lo gli stanco"
    assert f"{anna:il migliore amico}" == "la migliore amica"


def test_english_forms() -> None:
    assert (
        f"{EnglishNoun('axe'):a} {EnglishNoun('axe', 'new'):a} {EnglishNoun('unicorn'):a}"
        == "an axe a new axe a unicorn"
    )
    plurals = {
        "box": "boxes",
        "scarf": "scarves",
        "brush": "brushes",
        "key": "keys",
        "goose": "geese",
        "donkey": "donkeys",
    }
    assert {noun: english.plural_noun(noun) for noun in plurals} == plurals


def test_plurals_of_the_lexicon() -> None:
    """Every noun of the corpus in the plural, so that a new irregular one is seen here."""
    plurals = {thing.it.word: plural_noun(thing.it.word, thing.it.gender) for thing in lexicon().objects}
    assert " ".join(plurals.values()) == (
        "palle aquiloni libri bambole tamburi cappelli barche treni sciarpe specchi zaini ombrelli campane flauti "
        "lampade cesti monete chiavi scatole orologi tazze matite anelli stelle slitte guanti chitarre robot coperte "
        "bottiglie spazzole collane francobolli candele gnomi sgabelli asce ancore mappe biciclette corde xilofoni"
    )

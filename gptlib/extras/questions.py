"""Questions whose answers a program can compute, as many as are wanted (chapter 9).

from gptlib.extras.questions import KNOWN, NEW, make_records
records = make_records(600, seed=0)
others = make_records(40, seed=1, stock=replace(KNOWN, names=NEW.names))
"""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Stock:
    """What questions are made of: nouns, people, places, and sentences that name {name}, {city}."""

    words: list[str]
    names: list[str]
    cities: list[str]
    who: list[str]
    where: list[str]


def _words(text: str) -> list[str]:
    return text.split()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


KNOWN = Stock(
    _words("""
    army ball bed boot box boy bread bridge brother bullet cart chair church city cloud coat
    cow cup daughter day door dust evening eye face family father field fire floor foot forest
    friend garden gate girl glass glove hand hat head heart hill horse house hunter iron
    kitchen lamp letter light mother moon morning night officer paper peasant pistol prayer
    prince prisoner rain ring river road roof room rose sea servant shoulder sister sky sleigh
    snow soldier song spring stone storm street summer sun supper sword table tea tree uncle
    village voice wall water wind window wine winter wolf woman wood yard
    """),
    _words("""
    Anna Mary Pierre Andrew Nicholas Alexander Michael Julie Peter Simon Helen Sophie Paul
    Catherine Thomas Daniel Lise Vera Boris Ivan Natasha Sonya Denis Marya Rose Harry Kate
    William Margaret James
    """),
    _words("""
    Moscow Petersburg Vienna Paris London Berlin Warsaw Rome Kiev Smolensk Tula Riga Odessa
    Prague Madrid Venice Dresden Athens Florence Geneva Lisbon Naples Milan Hamburg Brussels
    Dublin Oxford Bristol York Liverpool
    """),
    _lines("""
    {name} wrote a letter to the old prince.
    The horse of {name} was gray.
    In the evening {name} sat by the fire.
    The officers drank tea with {name}.
    At the ball {name} danced till morning.
    The count gave {name} a gold watch.
    Yesterday {name} rode through the forest.
    Everyone in the room looked at {name}.
    {name} was tired and went to bed early.
    The soldiers followed {name} across the bridge.
    The little girl ran to meet {name}.
    It was {name} who opened the window.
    The doctor came to see {name} at noon.
    {name} lost a glove in the snow.
    The old nurse told {name} a story.
    Nobody in the village knew {name}.
    The cook made soup for {name}.
    After dinner {name} sang to the guests.
    The dog sat beside {name} all night.
    {name} bought two horses at the market.
    The general asked {name} to wait.
    Before the war {name} was a teacher.
    The door closed behind {name}.
    We found {name} asleep in the garden.
    """),
    _lines("""
    The army marched toward {city} in the rain.
    She lived in {city} with her mother.
    The letter came from {city} on Monday.
    In {city} the winter was long and cold.
    The road to {city} was full of carts.
    My brother has a large house in {city}.
    The prince left {city} before dinner.
    All the bells of {city} were ringing.
    We heard the news when we reached {city}.
    {city} was burning that night.
    The old count never spoke of {city} again.
    A merchant from {city} bought the horses.
    The streets of {city} were empty.
    He had studied in {city} for two years.
    The doctor was sent to {city} at once.
    Near {city} there is an old church.
    The regiment rested in {city} for a week.
    From the hill they saw {city} at last.
    The train to {city} was late.
    Her sister sings at the theater in {city}.
    {city} is far from the sea.
    They sold the house and moved to {city}.
    The bread of {city} is very good.
    Snow fell on {city} all day.
    """),
)
"""What lessons are made of."""

NEW = Stock(
    _words("""
    apple island captain doctor castle dream stranger silver honey candle mirror basket ladder
    pillow shadow thunder turtle violin wagon whistle
    """),
    _words("""
    George Emma Robert Alice Charles Lucy Philip Jane Martin Ruth Oliver Martha Edward Susan
    Henry Dora Arthur Clara Walter Agnes
    """),
    _words("""
    Cairo Boston Bombay Chicago Delhi Damascus Edinburgh Glasgow Stockholm Toulouse Tokyo
    Lyons Havana Cologne Seville Genoa Munich Plymouth Dover Jerusalem
    """),
    _lines("""
    No letter reached {name} that spring.
    The peasants trusted {name} more than the count.
    {name} laughed and shut the book.
    Under the tree stood {name} with a basket.
    The thief had stolen the money of {name}.
    """),
    _lines("""
    No ship sails to {city} in winter.
    He keeps a small shop in {city}.
    {city} has a famous market.
    Her uncle died in {city} last year.
    The wounded were carried to {city}.
    """),
)
"""What no lesson holds, to see what was learnt."""

Make = Callable[[random.Random, Stock], tuple[str, str]]
"""From random numbers and a stock to an input and its answer."""


def _first(rng: random.Random, stock: Stock) -> tuple[str, str]:
    drawn = rng.sample(stock.words, rng.randint(3, 5))
    return " ".join(drawn), drawn[0]


def _last(rng: random.Random, stock: Stock) -> tuple[str, str]:
    drawn = rng.sample(stock.words, rng.randint(3, 5))
    return " ".join(drawn), drawn[-1]


def _longest(rng: random.Random, stock: Stock) -> tuple[str, str]:
    while True:
        drawn = rng.sample(stock.words, 3)
        *_, short, long = sorted(drawn, key=len)
        if len(long) >= len(short) + 2:
            return " ".join(drawn), long


def _count(rng: random.Random, stock: Stock) -> tuple[str, str]:
    n = rng.randint(2, 6)
    return " ".join(rng.sample(stock.words, n)), ["two", "three", "four", "five", "six"][n - 2]


def _name(rng: random.Random, stock: Stock) -> tuple[str, str]:
    name = rng.choice(stock.names)
    return rng.choice(stock.who).format(name=name), name


def _city(rng: random.Random, stock: Stock) -> tuple[str, str]:
    city = rng.choice(stock.cities)
    return rng.choice(stock.where).format(city=city), city


TASKS: dict[str, tuple[Make, list[str]]] = {
    "first-word": (
        _first,
        ["Repeat the first word.", "Which word comes first?", "Write only the first word."],
    ),
    "last-word": (
        _last,
        ["Repeat the last word.", "Which word comes last?", "Write only the last word."],
    ),
    "longest-word": (
        _longest,
        ["Name the longest word.", "Which word is the longest?", "Find the longest word."],
    ),
    "count-words": (
        _count,
        ["Count the words.", "How many words are there?", "Say how many words this is."],
    ),
    "find-name": (
        _name,
        ["Who is named here?", "Write the name of the person.", "Find the person."],
    ),
    "find-city": (
        _city,
        ["Which city is named here?", "Write the name of the city.", "Find the city."],
    ),
}
"""What makes a task's inputs and answers, and the wordings of its instruction."""


def make_records(
    n_per_task: int, seed: int, stock: Stock = KNOWN, tasks: Collection[str] = tuple(TASKS)
) -> list[dict[str, str]]:
    """Draw questions and compute their answers, the same ones for a seed every time.

    Returns:
        Records with the keys "instruction", "input", "output" and "task", task after task; no two
        of a task have the same input.

    Raises:
        ValueError: If the stock has not so many different inputs.

    Example:
        >>> make_records(1, seed=0, tasks=["first-word"])[0]["output"]
        'road'
    """
    records = []
    for task in tasks:
        make, wordings = TASKS[task]
        rng, made = random.Random(f"{task} {seed}"), dict[str, str]()
        for _ in range(50 * n_per_task):  # what is drawn twice counts once
            if len(made) == n_per_task:
                break
            text, answer = make(rng, stock)
            made[text] = answer
        else:
            raise ValueError(
                f"the stock has too few different inputs for {n_per_task} of {task}; ask for fewer"
            )
        for text, answer in made.items():
            asked = rng.choice(wordings)
            records.append({"instruction": asked, "input": text, "output": answer, "task": task})
    return records

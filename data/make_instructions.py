"""Write the templated records of `instructions.json`, the same ones every time.

The free records of the file were written by hand and stay as they are. Run it in the course's
folder after a change of a template:

    python data/make_instructions.py
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

FILE = Path(__file__).with_name("instructions.json")

PER_TASK = 60
"""Records of a task, where its table of words does not set another number."""

Example = tuple[dict[str, str], str, str]
"""What fills the wording's gaps, the input, and the right output."""

WORDS = """
    army ball bed boot box boy bread bridge brother bullet cart chair church city cloud coat
    cow cup daughter day door dust evening eye face family father field fire floor foot forest
    friend garden gate girl glass glove hand hat head heart hill horse house hunter iron
    kitchen lamp letter light mother moon morning night officer paper peasant pistol prayer
    prince prisoner rain ring river road roof room rose sea servant shoulder sister sky sleigh
    snow soldier song spring stone storm street summer sun supper sword table tea tree uncle
    village voice wall water wind window wine winter wolf woman wood yard
"""

OPPOSITES = """
    old young, big small, hot cold, happy sad, good bad, day night, open closed, first last,
    light dark, high low, long short, rich poor, early late, wide narrow, strong weak, fast slow,
    war peace, friend enemy, up down, love hate, right wrong, near far, full empty, wet dry,
    hard soft, begin end, give take, before after, above below, inside outside
"""

PAST = """
    walk walked, talk talked, look looked, ask asked, call called, pass passed, laugh laughed,
    wait waited, help helped, want wanted, open opened, close closed, smile smiled, live lived,
    love loved, hope hoped, move moved, dance danced, cry cried, try tried, marry married,
    carry carried, study studied, stop stopped, beg begged, play played, stay stayed,
    answer answered, remember remembered, wound wounded,
    go went, come came, see saw, say said, give gave, take took, make made, know knew, sit sat,
    stand stood, run ran, ride rode, write wrote, speak spoke, break broke, sing sang, drink drank,
    begin began, fall fell, eat ate, hear heard, feel felt, leave left, keep kept, sleep slept,
    think thought, bring brought, find found, tell told, send sent
"""

PLURALS = """
    horse horses, house houses, soldier soldiers, letter letters, friend friends, river rivers,
    sword swords, window windows, table tables, brother brothers, sister sisters, prince princes,
    door doors, road roads, garden gardens, village villages, bridge bridges, gun guns, hat hats,
    tree trees, room rooms, officer officers, song songs, cloud clouds, boy boys, day days,
    church churches, dress dresses, glass glasses, box boxes, watch watches, kiss kisses,
    bush bushes, coach coaches, branch branches, match matches,
    lady ladies, city cities, army armies, story stories, enemy enemies, family families,
    duty duties, baby babies,
    man men, woman women, child children, foot feet, tooth teeth, mouse mice, goose geese,
    wife wives, wolf wolves, leaf leaves, knife knives, life lives
"""

NAMES = """
    Anna Mary Pierre Andrew Nicholas Alexander Michael Julie Peter Simon Helen Sophie Paul
    Catherine Thomas Daniel Lise Vera Boris Ivan
"""

CITIES = """
    Moscow Petersburg Vienna Paris London Berlin Warsaw Rome Kiev Smolensk Tula Riga Odessa
    Prague Madrid Venice
"""

WHO = """
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
"""

WHERE = """
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
"""

SENTENCES = """
    The soldier gave his horse some water.
    The old man sat near the fire.
    A cold wind came from the river.
    The children played in the garden.
    She put the letter on the table.
    The doctor came late in the evening.
    Snow fell on the roof all night.
    The prince smiled and said nothing.
    Two officers stood on the bridge.
    My sister sings in the church.
    The dog ran after the cart.
    He lost his hat in the forest.
    We drank tea in the small room.
    The moon was bright above the field.
    Her father bought a new coat.
    The peasants worked until dark.
    A boy brought the wood inside.
    The door of the house was open.
    They heard the guns in the morning.
    The countess looked for her glove.
    The cook made soup for the guests.
    The wolf was hiding behind the hill.
    He read the paper and went to sleep.
    The carriage stopped in the street.
    Nobody knew the name of the stranger.
    The regiment crossed the bridge at noon.
    A white bird sat on the window.
    The bread was still warm.
    The old nurse told the boy a story.
    His sword hung on the wall.
"""

HE = """
    He took his hat and left.
    He was tired, but he did not sleep.
    He wrote to his mother every week.
    The old man forgot what he wanted to say.
    He looked at himself in the glass.
    They waited for him at the gate.
    He said that his horse was lame.
    Nobody believed him.
    He drank his tea and said nothing.
    The door closed behind him.
    He hurt himself with a knife.
    His hands were cold.
    The doctor told him to rest.
    He knew that he was right.
    His voice was soft and low.
    He opened the letter and read it.
    I saw him in the garden this morning.
    He sang while he worked.
    His brother lives in the village.
    He laughed at his own mistake.
    When he came home, his supper was cold.
    We gave him bread and water.
    He has two sisters.
    His eyes filled with tears.
    He asked himself why he had come.
    Did he find his gloves?
    The horse knew him at once.
    He is older than his friend.
    He ran until he reached the river.
    His house stands on the hill.
    The count invited him to dinner.
    He never speaks of his father.
    He wanted to go, but his leg was weak.
    Is he at home?
    He kept the ring for himself.
    The rain did not trouble him.
    He held his child by the hand.
    Everyone liked him and his songs.
    He will come if he can.
    His coat was wet with snow.
    He sold his land and went abroad.
    What did he tell you?
    He blushed, and his friends smiled.
    The dog sat beside him all night.
    He could not hide his joy.
    He thought he heard a shout.
    They asked him for his name.
    His answer surprised us.
"""


def pairs(table: str) -> list[tuple[str, str]]:
    """Read a table of pairs: words with a space between them, pairs with a comma."""
    split = (pair.split() for pair in table.split(","))
    return [(first, second) for first, second in split]


def lines(table: str) -> list[str]:
    """Read a table of one sentence a line."""
    return [line.strip() for line in table.strip().splitlines()]


def words(table: str) -> list[str]:
    """Read a table of words."""
    return table.split()


def some_words(rng: random.Random, least: int = 3, most: int = 3) -> list[str]:
    """Draw different words."""
    return rng.sample(words(WORDS), rng.randint(least, most))


def first_word(rng: random.Random) -> Iterator[Example]:
    """Examples of: the first of three to five words."""
    while True:
        drawn = some_words(rng, 3, 5)
        yield {}, " ".join(drawn), drawn[0]


def last_word(rng: random.Random) -> Iterator[Example]:
    """Examples of: the last of three to five words."""
    while True:
        drawn = some_words(rng, 3, 5)
        yield {}, " ".join(drawn), drawn[-1]


def longest_word(rng: random.Random) -> Iterator[Example]:
    """Examples of: the longest of three words, by two letters at least."""
    while True:
        drawn = some_words(rng)
        short, long = sorted(drawn, key=len)[1:]
        if len(long) >= len(short) + 2:
            yield {}, " ".join(drawn), long


def sort_words(rng: random.Random) -> Iterator[Example]:
    """Examples of: three words by their first letters, which differ."""
    while True:
        drawn = some_words(rng)
        if len({word[0] for word in drawn}) == 3:
            yield {}, " ".join(drawn), " ".join(sorted(drawn))


def reverse_words(rng: random.Random) -> Iterator[Example]:
    """Examples of: three words from the last to the first."""
    while True:
        drawn = some_words(rng)
        yield {}, " ".join(drawn), " ".join(drawn[::-1])


def upper_case(rng: random.Random) -> Iterator[Example]:
    """Examples of: a word in capitals."""
    vocabulary = words(WORDS)
    for word in rng.sample(vocabulary, len(vocabulary)):
        yield {}, word, word.upper()


def count_words(rng: random.Random) -> Iterator[Example]:
    """Examples of: how many words, one to six, each number equally often."""
    while True:
        for number, name in enumerate(["one", "two", "three", "four", "five", "six"], start=1):
            yield {}, " ".join(rng.sample(words(WORDS), number)), name


def add(rng: random.Random) -> Iterator[Example]:
    """Examples of: the sum of two numbers from 1 to 10."""
    sums = [(first, second) for first in range(1, 11) for second in range(1, 11)]
    for first, second in rng.sample(sums, len(sums)):
        yield {}, f"{first} + {second}", str(first + second)


def next_number(rng: random.Random) -> Iterator[Example]:
    """Examples of: the number after one from 1 to 99."""
    for number in rng.sample(range(1, 100), 99):
        yield {}, str(number), str(number + 1)


def sort_numbers(rng: random.Random) -> Iterator[Example]:
    """Examples of: three different numbers from 1 to 20, the smallest first."""
    while True:
        numbers = rng.sample(range(1, 21), 3)
        yield {}, " ".join(map(str, numbers)), " ".join(map(str, sorted(numbers)))


def opposite(rng: random.Random) -> Iterator[Example]:
    """Examples of: the opposite, each pair in both directions."""
    table = pairs(OPPOSITES)
    both = table + [(second, first) for first, second in table]
    for word, answer in rng.sample(both, len(both)):
        yield {}, word, answer


def past_tense(rng: random.Random) -> Iterator[Example]:
    """Examples of: the past of regular and irregular verbs."""
    table = pairs(PAST)
    for verb, past in rng.sample(table, len(table)):
        yield {}, verb, past


def plural(rng: random.Random) -> Iterator[Example]:
    """Examples of: the plural of regular and irregular nouns."""
    table = pairs(PLURALS)
    for noun, many in rng.sample(table, len(table)):
        yield {}, noun, many


def find_name(rng: random.Random) -> Iterator[Example]:
    """Examples of: the person in a sentence."""
    while True:
        name = rng.choice(words(NAMES))
        yield {}, rng.choice(lines(WHO)).format(name=name), name


def find_city(rng: random.Random) -> Iterator[Example]:
    """Examples of: the city in a sentence."""
    while True:
        city = rng.choice(words(CITIES))
        yield {}, rng.choice(lines(WHERE)).format(city=city), city


def contains(rng: random.Random) -> Iterator[Example]:
    """Examples of: is a word in the sentence, half of them yes."""
    spoken = [sentence.lower().rstrip(".").split() for sentence in lines(SENTENCES)]
    asked = [rng.choice([word for word in said[1:] if len(word) > 3]) for said in spoken]
    for sentence, word in zip(lines(SENTENCES), asked, strict=True):
        yield {"word": word}, sentence, "yes"
    for sentence, said in zip(lines(SENTENCES), spoken, strict=True):
        absent = [word for word in asked if word not in said]
        yield {"word": rng.choice(absent)}, sentence, "no"


def he_to_she(rng: random.Random) -> Iterator[Example]:
    """Examples of: the same sentence about a woman."""
    change = {"he": "she", "him": "her", "his": "her", "himself": "herself", "man": "woman"}
    for sentence in rng.sample(lines(HE), len(lines(HE))):
        changed = []
        for word in sentence.split():
            bare = word.rstrip(".,?")
            new = change.get(bare.lower(), bare)
            changed.append((new.capitalize() if bare[0].isupper() else new) + word[len(bare) :])
        yield {}, sentence, " ".join(changed)


TASKS: dict[str, tuple[Callable[[random.Random], Iterator[Example]], list[str]]] = {
    "first-word": (
        first_word,
        [
            "Repeat the first word.",
            "Which word comes first?",
            "Write only the first word.",
            "Say the word at the beginning.",
        ],
    ),
    "last-word": (
        last_word,
        [
            "Repeat the last word.",
            "Which word comes last?",
            "Write only the last word.",
            "Say the word at the end.",
        ],
    ),
    "longest-word": (
        longest_word,
        [
            "Name the longest word.",
            "Which word is the longest?",
            "Find the word with the most letters.",
            "Which of these words has the most letters?",
        ],
    ),
    "opposite": (
        opposite,
        [
            "Give the opposite of this word.",
            "What is the opposite?",
            "Write a word that means the opposite.",
            "Say the contrary of this word.",
        ],
    ),
    "past-tense": (
        past_tense,
        [
            "Put the verb in the past tense.",
            "Say it as if it happened yesterday.",
            "Write the past of this verb.",
            "What is the past tense?",
        ],
    ),
    "plural": (
        plural,
        [
            "Give the plural.",
            "Write the word for more than one.",
            "What do we call many of them?",
            "Put the noun in the plural.",
        ],
    ),
    "count-words": (
        count_words,
        [
            "Count the words.",
            "How many words are there?",
            "How many words do you see?",
            "Say how many words this is.",
        ],
    ),
    "add": (
        add,
        [
            "Add the two numbers.",
            "What is the sum?",
            "How much is this together?",
            "Work out the sum.",
        ],
    ),
    "next-number": (
        next_number,
        [
            "Which number comes next?",
            "Say the number that follows.",
            "Count one further.",
            "Write the next number.",
        ],
    ),
    "sort-words": (
        sort_words,
        [
            "Put the words in the order of the alphabet.",
            "Sort the words from A to Z.",
            "Sort these words by their first letter.",
            "Write the words as they stand in a dictionary.",
        ],
    ),
    "sort-numbers": (
        sort_numbers,
        [
            "Put the numbers in order.",
            "Sort the numbers, the smallest first.",
            "Write the numbers from the smallest to the greatest.",
            "Sort these numbers.",
        ],
    ),
    "reverse-words": (
        reverse_words,
        [
            "Reverse the order of the words.",
            "Write the words backward, the last one first.",
            "Turn the order of the words around.",
            "Say the words from the end to the beginning.",
        ],
    ),
    "upper-case": (
        upper_case,
        [
            "Write the word in capital letters.",
            "Use only capital letters.",
            "Shout it in capitals.",
            "Change every letter to a capital.",
        ],
    ),
    "find-name": (
        find_name,
        [
            "Who is named in the sentence?",
            "Write the name of the person.",
            "Find the person in the sentence.",
            "Which person does the sentence name?",
        ],
    ),
    "find-city": (
        find_city,
        [
            "Which city is named in the sentence?",
            "Write the name of the city.",
            "Find the city in the sentence.",
            "What city does the sentence speak of?",
        ],
    ),
    "contains": (
        contains,
        [
            'Does the sentence contain the word "{word}"?',
            'Is the word "{word}" in the sentence?',
            'Answer yes or no: does "{word}" appear here?',
            'Can you find the word "{word}" here?',
        ],
    ),
    "he-to-she": (
        he_to_she,
        [
            "Say the same of a woman.",
            "Change he to she.",
            "Write the sentence about a woman.",
            "Put she in the place of he.",
        ],
    ),
}
"""The function that makes a task's examples, and the wordings of its instruction."""


def templated() -> list[dict[str, str]]:
    """Make the records of every task.

    Returns:
        Records with the keys "instruction", "input", "output" and "task"; in each task no two
        inputs with the same instruction, and its wordings in equal parts.
    """
    records = []
    for task, (make, wordings) in TASKS.items():
        rng = random.Random(task)  # its own stream: a change of one task leaves the others
        seen: set[tuple[str, ...]] = set()
        for gaps, given, answer in make(rng):
            if (given, *gaps.values()) in seen:
                continue
            instruction = wordings[(len(seen) + len(seen) // 12) % len(wordings)].format(**gaps)
            seen.add((given, *gaps.values()))
            records.append(
                {"instruction": instruction, "input": given, "output": answer, "task": task}
            )
            if len(seen) == PER_TASK:
                break
    return records


def layout(records: list[dict[str, str]]) -> str:
    """Write records as JSON, one a line, so that a change of one is a change of one line."""
    rows = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    return f"[\n{rows}\n]\n"


def main() -> None:
    """Renew the templated records of the file and keep the free ones."""
    old = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else []
    free = [record for record in old if record["task"] == "free"]
    FILE.write_text(layout(templated() + free), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()

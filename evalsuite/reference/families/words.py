"""Names and things. Long lists, because a model that has seen six names has learned six names; plain words only."""

from __future__ import annotations

FIRST_FIVE = ("Alice", "Bob", "Claire", "Dave", "Eve")

NAMES = tuple(
    """
    Amy Ana Ada Eli Eve Joe Mel Mya Rob Dan Alice Bob Claire Dave Fred Anna Ben Carl Dora Emma Frank Grace Henry
    Ivy Jack Kate Liam Mona Nora Oscar Paul Rosa Sam Tina Uma Victor Wendy Yara Zoe Tom Maria James Lucy Peter
    Jane Mark Susan Leo Ruth Adam Nina Hugo Christie Ka Delbert Leda Lorine Tamika Raymond Willian Shaunda
    Elanor Vernell Kandi Alexis Sima Phoebe Shalonda Teressa Jaymie Millicent Jerry Amberly Jamey Fidel Gwenn
    Fletcher Sal Bernita Rashida Audrie Delfina Helene Crista Conception Alejandro Inga Ryan Michaela Shenna
    Andree Sherrie Vina Michael Millie Osvaldo Jim Antwan Maybelle Yoland Dallas Kristian Olga Pavel Quinn Rita
    Simon Vera Walter Ximena Igor Priya Chen Aisha Omar Fatima Diego Elena Felix Greta Hannah Ivan Julia Kevin
    Laura Martin Noah Olivia Sofia Thomas Bella Caleb Daisy Ethan Fiona George Holly Isaac Jade Kyle Lily Mason
    Nathan Owen Pearl Ralph Stella Tyler Violet
    """.split()  # noqa: SIM905
)
PEOPLE = tuple(sorted(set(NAMES)))

COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "black", "brown", "gray")
PARTNERS = (
    "Helga",
    "Lola",
    "Ophelia",
    "Izzi",
    "Melissa",
    "Jamie",
    "Karl",
    "Rodrigo",
    "Patrick",
    "Sam",
    "Oscar",
    "Nora",
    "Hugo",
)
BOOKS = (
    "Frankenstein", "The Odyssey", "Lolita", "Catch-22", "Moby Dick", "The Great Gatsby",
    "Hound of the Baskervilles", "The Pearl",
    "The Fellowship of the Ring", "Ulysses", "Dracula", "Emma", "Walden", "The Iliad", "Hamlet",
)  # fmt: skip
POSITIONS = (
    "goalkeeper", "left midfielder", "right winger", "striker", "center midfielder", "right midfielder",
    "left winger", "fullback",
    "benchwarmer", "cheerleader", "center back",
)  # fmt: skip
KEYS = ("car key", "house key", "desk key", "bike key", "gate key", "office key", "locker key", "safe key")

BIRDS = (
    "robin",
    "blue jay",
    "crow",
    "raven",
    "owl",
    "cardinal",
    "hummingbird",
    "quail",
    "hawk",
    "falcon",
    "sparrow",
    "finch",
)
VEHICLES = (
    "tractor", "truck", "minivan", "convertible", "bus", "sedan", "station wagon", "hatchback", "limousine",
    "motorcyle", "taxi",
)  # fmt: skip
FRUIT_STAND = (
    "apples",
    "peaches",
    "mangoes",
    "oranges",
    "watermelons",
    "pears",
    "loquats",
    "kiwis",
    "cantaloupes",
    "plums",
    "lemons",
)

THINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "fruits": (
        ("a blackberry", "blackberries"), ("a strawberry", "strawberries"), ("an apple", "apples"), ("an orange",
        "oranges"),
        ("a nectarine", "nectarines"), ("a grape", "grapes"), ("a peach", "peaches"), ("a banana", "bananas"),
        ("a plum", "plums"),
        ("a raspberry", "raspberries"), ("a lemon", "lemons"), ("a pear", "pears"),
    ),
    "vegetables": (
        ("a yam", "yams"), ("a lettuce head", "lettuce heads"), ("an onion", "onions"), ("a head of broccoli",
        "heads of broccoli"),
        ("a cauliflower", "cauliflowers"), ("a potato", "potatoes"), ("a cabbage", "cabbages"), ("a carrot",
        "carrots"),
        ("a garlic", "garlics"), ("a stalk of celery", "stalks of celery"), ("a turnip", "turnips"),
    ),
    "animals": (
        ("a fish", "fish"), ("a mouse", "mice"), ("a pig", "pigs"), ("a duck", "ducks"), ("a snail", "snails"),
        ("a donkey", "donkeys"),
        ("a frog", "frogs"), ("a chicken", "chickens"), ("a goat", "goats"), ("a rabbit", "rabbits"), ("a cow",
        "cows"),
        ("a snake", "snakes"), ("a bear", "bears"), ("a cat", "cats"), ("a dog", "dogs"),
    ),
    "musical instruments": (
        ("a trumpet", "trumpets"), ("an accordion", "accordions"), ("a drum", "drums"), ("a piano", "pianos"),
        ("a trombone", "trombones"), ("a flute", "flutes"), ("a clarinet", "clarinets"), ("a violin", "violins"),
        ("a guitar", "guitars"),
    ),
    "objects": (
        ("a toaster", "toasters"), ("a bed", "beds"), ("a fridge", "fridges"), ("a table", "tables"), ("a chair",
        "chairs"),
        ("a car", "cars"), ("a lamp", "lamps"), ("a microwave", "microwaves"), ("an oven", "ovens"), ("a stove",
        "stoves"),
        ("a couch", "couches"),
    ),
}  # fmt: skip
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

GOODS = (
    "pens",
    "books",
    "apples",
    "cards",
    "stamps",
    "shells",
    "coins",
    "cookies",
    "marbles",
    "stickers",
    "eggs",
    "balls",
    "cups",
    "toys",
)
CITIES = (
    "Rome",
    "Oslo",
    "Lima",
    "Cairo",
    "Paris",
    "Delhi",
    "Tokyo",
    "Quito",
    "Bern",
    "Accra",
    "Hanoi",
    "Sofia",
    "Madrid",
    "Dublin",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    ("January", 31), ("February", 28), ("March", 31), ("April", 30), ("May", 31), ("June", 30), ("July", 31),
    ("August", 31),
    ("September", 30), ("October", 31), ("November", 30), ("December", 31),
)  # fmt: skip

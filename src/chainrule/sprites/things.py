"""The things of the world of sprites: which there are, what captions call them, what is held out.

Each is an emoji; `emoji` is its short name in the packages' list (`chainrule.sprites.artwork`). All
are drawn in all three styles and can be told apart at 64 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

_HIDDEN = {
    "face": """joy innocent heart_eyes=in-love star-struck kissing_heart=kissing
        stuck_out_tongue=tongue money_mouth_face=money sunglasses=cool nerd_face=nerd sob=sobbing
        scream=screaming rage=furious sleeping mask=masked nauseated_face=nauseated
        exploding_head=exploding hot_face=hot cold_face=cold face_with_cowboy_hat=cowboy
        partying_face=partying thinking_face=thinking zipper_mouth_face=zipped
        face_with_head_bandage=bandaged flushed grinning upside_down_face=upside-down""",
    "fruit": """tomato grapes melon watermelon tangerine lemon banana pineapple apple green_apple
        pear peach cherries strawberry kiwifruit=kiwi coconut mango blueberries olive""",
    "bird": """rooster chicken=hen baby_chick=chick penguin dove_of_peace=dove turkey eagle duck owl
        peacock parrot swan dodo flamingo hatching_chick=hatchling bird=songbird""",
    "instrument": """saxophone guitar trumpet violin drum_with_drumsticks=drum maracas flute banjo
        accordion long_drum=conga musical_keyboard=piano""",
    "bug": """bug=caterpillar ant bee ladybug spider scorpion butterfly cricket mosquito beetle
        cockroach fly""",
    "flower": """tulip cherry_blossom=cherry-blossom rose hibiscus sunflower blossom=daisy lotus
        hyacinth bouquet wilted_flower=wilted""",
    "dog": "dog=puppy dog2=hound poodle service_dog=service-dog wolf",
}

_NAMED = """
    rat rabbit2=rabbit tiger2=tiger leopard black_cat=cat racehorse=horse ram goat cow2=cow
    sheep monkey pig2=pig elephant koala camel mouse hamster bear polar_bear panda_face=panda
    lion_face=lion unicorn_face=unicorn bat fox_face=fox deer gorilla rhinoceros
    giraffe_face=giraffe zebra_face=zebra hedgehog kangaroo llama hippopotamus raccoon badger
    mammoth sloth otter orangutan skunk beaver bison frog crocodile snake turtle
    dragon_face=dragon lizard sauropod=dinosaur t-rex whale octopus shell
    tropical_fish=fish blowfish dolphin shark crab shrimp squid lobster seal snail
    evergreen_tree=fir deciduous_tree=tree palm_tree=palm cactus four_leaf_clover=clover
    maple_leaf=leaf mushroom
    hotdog taco hamburger pizza fries bread croissant egg pancakes pretzel sandwich
    cheese_wedge=cheese waffle popcorn corn eggplant avocado carrot broccoli garlic onion
    rice_ball sushi icecream=sundae doughnut cookie lollipop cake cupcake honey_pot=honey
    wine_glass=wine cocktail beer teapot tea=teacup
    jack_o_lantern=pumpkin christmas_tree gift balloon
    soccer=football basketball tennis bowling trophy medal=medal
    kite yo-yo teddy_bear=teddy dart 8ball game_die=dice jigsaw video_game=gamepad crystal_ball
    art=palette yarn
    tophat crown eyeglasses=glasses necktie=tie shirt jeans dress athletic_shoe=sneaker
    high_heel=heel boot lipstick ring gem school_satchel=satchel
    bulb camera tv candle flashlight computer=laptop floppy_disk telephone=phone radio microphone
    hammer wrench axe magnet key lock scissors pencil2=pencil
    paperclip scroll envelope=envelope package=box newspaper alarm_clock=clock hourglass watch
    bell umbrella snowman rainbow sunny=sun star cloud zap=bolt snowflake fire droplet=drop
    moyai skull ghost alien robot_face=robot clown_face=clown
    rocket helicopter airplane=plane flying_saucer=ufo boat=yacht ship anchor
    bus ambulance fire_engine taxi police_car tractor truck steam_locomotive=train bike=bicycle
    motor_scooter=scooter skateboard traffic_light
    house european_castle=castle tent ferris_wheel volcano
    toilet bathtub chair door broom bucket soap toothbrush shopping_trolley=trolley
    syringe pill microscope telescope test_tube dna bomb shield
    coin moneybag compass
"""

_COLOURED = {
    "heart": """heart=red orange_heart=orange yellow_heart=yellow green_heart=green
        blue_heart=blue purple_heart=purple black_heart=black white_heart=white
        brown_heart=brown""",
    "book": "closed_book=red green_book=green blue_book=blue orange_book=orange",
    "car": "car=red blue_car=blue",
}


@dataclass(frozen=True)
class Kind:
    """A kind of thing.

    Args:
        name: What it is: the label of classifiers and judges.
        emoji: Its short name in the packages' list.
        word: What captions call it: hidden kinds are called by their genus.
        colour: The word of its colour, for what comes in several; None: captions name none.
    """

    name: str
    emoji: str
    word: str
    colour: str | None = None

    @property
    def hidden(self) -> bool:
        """Whether it has no word of its own."""
        return self.word in _HIDDEN


def _entries(text: str) -> list[tuple[str, str]]:
    """(emoji, name) of "emoji" and "emoji=name"; an underscore stands for a space."""
    pairs = (entry.partition("=") for entry in dict.fromkeys(text.split()))
    return [(emoji, (name or emoji).replace("_", " ")) for emoji, _, name in pairs]


def _list_kinds() -> dict[str, Kind]:
    kinds = [
        *(Kind(name, e, genus) for genus, text in _HIDDEN.items() for e, name in _entries(text)),
        *(Kind(name, emoji, name) for emoji, name in _entries(_NAMED)),
        *(
            Kind(f"{colour} {word}", emoji, word, colour)
            for word, text in _COLOURED.items()
            for emoji, colour in _entries(text)
        ),
    ]
    return {kind.name: kind for kind in kinds}


KINDS = _list_kinds()
"""All kinds of things by name."""

GENERA = {genus: tuple(k.name for k in KINDS.values() if k.word == genus) for genus in _HIDDEN}
"""The genera whose species have no word, each with its species."""

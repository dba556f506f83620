"""Rules of three classes, with every kind of value."""
import math

from utils.decisions.abstention import Abstention
from utils.decisions.operating_points import OperatingPoint
from utils.decisions.prediction_sets import SetRule
from utils.decisions.rules import Rules

RULES = Rules((SetRule('class', .9, (.5, math.inf, .25), (.5, .2, .3), counts=(50, 3, 20)),),
              (OperatingPoint('b or worse', 1, 2, aim='sensitivity', level=.9, threshold=.3, n=23),), Abstention(.1, .4))

"""Sessions over one backend each, and the predictor on top of them.

Backends are imported when a session is opened; this package alone needs numpy and Pillow.
"""

from edge_vit.runtime.predictor import Prediction as Prediction
from edge_vit.runtime.predictor import Predictor as Predictor
from edge_vit.runtime.session import LatencySplit as LatencySplit
from edge_vit.runtime.session import Session as Session
from edge_vit.runtime.session import SessionOptions as SessionOptions
from edge_vit.runtime.session import open_session as open_session
from edge_vit.runtime.session import run_batch as run_batch
from edge_vit.runtime.session import run_images as run_images

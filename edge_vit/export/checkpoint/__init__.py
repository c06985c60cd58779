"""Weights from a file that anyone may have made: no code in it runs, and all of it fits or none."""

from edge_vit.export.checkpoint.fit import Fit as Fit
from edge_vit.export.checkpoint.fit import choose_weights as choose_weights
from edge_vit.export.checkpoint.loading import describe as describe
from edge_vit.export.checkpoint.loading import drop_weights as drop_weights
from edge_vit.export.checkpoint.loading import fill as fill
from edge_vit.export.checkpoint.loading import load_fit as load_fit
from edge_vit.export.checkpoint.loading import load_weights as load_weights
from edge_vit.export.checkpoint.loading import refuse_misfit as refuse_misfit
from edge_vit.export.checkpoint.loading import refuse_nonfinite as refuse_nonfinite
from edge_vit.export.checkpoint.loading import usable as usable
from edge_vit.export.checkpoint.misfit import Misfit as Misfit
from edge_vit.export.checkpoint.positions import SourceGrid as SourceGrid
from edge_vit.export.checkpoint.stored import StoredWeights as StoredWeights
from edge_vit.export.checkpoint.stored import read_stored as read_stored

"""The bundle: one folder that holds a model, what is known of it, and how each file was made."""

from edge_vit.bundle.bundle import Bundle as Bundle
from edge_vit.bundle.bundle import Change as Change
from edge_vit.bundle.drafts import draft_bundle as draft_bundle
from edge_vit.bundle.drafts import refuse_existing as refuse_existing
from edge_vit.bundle.manifest import BUNDLE_FORMAT as BUNDLE_FORMAT
from edge_vit.bundle.manifest import GOLDEN as GOLDEN
from edge_vit.bundle.manifest import MANIFEST as MANIFEST
from edge_vit.bundle.manifest import RECORD as RECORD
from edge_vit.bundle.manifest import ROUNDED as ROUNDED
from edge_vit.bundle.manifest import TABLE as TABLE
from edge_vit.bundle.manifest import WEIGHTS as WEIGHTS
from edge_vit.bundle.manifest import Artifact as Artifact
from edge_vit.bundle.manifest import Manifest as Manifest
from edge_vit.bundle.manifest import digest_of as digest_of
from edge_vit.bundle.manifest import digest_of_file as digest_of_file
from edge_vit.bundle.record import Golden as Golden

"""The bundle: one folder that holds a model, what is known of it, and how each file was made."""

from __future__ import annotations

from edge_vit.bundle.bundle import Bundle
from edge_vit.bundle.change import Change
from edge_vit.bundle.drafts import draft_bundle, refuse_existing
from edge_vit.bundle.golden import Golden
from edge_vit.bundle.manifest import (
    BUNDLE_FORMAT,
    GOLDEN,
    MANIFEST,
    RECORD,
    ROUNDED,
    TABLE,
    Artifact,
    Manifest,
    digest_of,
)

__all__ = [
    "BUNDLE_FORMAT",
    "GOLDEN",
    "MANIFEST",
    "RECORD",
    "ROUNDED",
    "TABLE",
    "Artifact",
    "Bundle",
    "Change",
    "Golden",
    "Manifest",
    "digest_of",
    "draft_bundle",
    "refuse_existing",
]

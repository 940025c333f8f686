"""Into the local image store: config, manifest, names; layers stay the snapshots that they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.exporters.assembly import PreparedImage, assemble_images
from buildkit_py.exporters.attributes import flag, image_options
from buildkit_py.exporters.base import ExportRequest, ExportResult
from buildkit_py.oci.reference import parse_reference
from buildkit_py.store.images import NewImage
from buildkit_py.store.lists import Entry, ImageList, ListStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit_py.exporters import OutputSpec
    from buildkit_py.exporters.assembly import Assembly
    from buildkit_py.exporters.attributes import ImageOptions
    from buildkit_py.oci.reference import Reference
    from buildkit_py.store import Store
    from buildkit_py.store.images import StoredImage


class ImageExporter:
    """`type=image`; with `push=true` it goes to its registry as well."""

    def __init__(self, spec: OutputSpec, store: Store) -> None:
        self._spec = spec
        self._store = store

    def export(self, request: ExportRequest) -> ExportResult:
        """Store the images of all platforms and point the names at them."""
        attributes = self._spec.attributes
        options = image_options(attributes, request, compression="uncompressed")
        # the store keeps images alone: an index with attestations exists where it is pushed
        plain = tuple(replace(image, attestations=()) for image in request.images)
        assembly = assemble_images(self._store, replace(request, images=plain), options)
        if flag(attributes, "store", default=True):
            stored = self._store.images.add_all(
                [self._entry(image) for image in assembly.images], options.names
            )
            self._name(assembly, stored, options)
            if flag(attributes, "unpack"):
                for image in stored:
                    self._store.snapshots.directories(image.snapshot)
        result = ExportResult(
            descriptor=assembly.descriptor,
            images=tuple(image.exported for image in assembly.images),
            names=tuple(str(name) for name in options.names),
        )
        if flag(attributes, "push"):
            return self._push(request)
        return result

    def _name(
        self, assembly: Assembly, stored: Sequence[StoredImage], options: ImageOptions
    ) -> None:
        """Names with digests, where they are asked for, and what an index says of its entries."""
        names = [item for item in options.names if item.tag is not None]
        if assembly.index is not None:
            entries = tuple(
                Entry(
                    image=image.id,
                    platform=made.built.platform,
                    annotations=made.assembled.manifest_descriptor.annotations,
                )
                for made, image in zip(assembly.images, stored, strict=True)
            )
            notes = options.annotations.of("index")
            ListStore(self._store.db).note(names, ImageList(entries=entries, annotations=notes))
        for repository in self._canonical(options):
            for image in stored:
                canonical = replace(repository, tag=None, digest=assembly.descriptor.digest)
                self._store.images.note_digest(canonical, image.id)

    def _canonical(self, options: ImageOptions) -> list[Reference]:
        """Repositories under which the image gets a name by its digest."""
        attributes = self._spec.attributes
        found = list(options.names) if flag(attributes, "name-canonical") else []
        prefix = attributes.get("dangling-name-prefix")
        only_empty = flag(attributes, "dangling-name-empty-only") or flag(
            attributes, "danging-name-empty-only"
        )
        if prefix and not (only_empty and options.names):
            found.append(parse_reference(prefix, default_tag=None))
        return found

    def _entry(self, image: PreparedImage) -> NewImage:
        return NewImage(
            config=image.assembled.config,
            snapshot=self._snapshot(image),
            manifest=image.assembled.manifest,
            manifest_type=image.assembled.manifest_descriptor.media_type,
        )

    def _snapshot(self, image: PreparedImage) -> int | None:
        """The top snapshot whose diff_ids are those of the config.

        Layers written in another form (settled times, estargz) have other diff_ids than the
        snapshots that they were made of: the image then stands on layers of its own.
        """
        snapshots = self._store.snapshots
        same = all(
            snapshots.diff_id(layer.snapshot) == layer.blob.diff_id for layer in image.layers
        )
        if same:
            return image.built.snapshot
        top: int | None = None
        for layer in image.layers:
            snapshots.ensure_blob(layer.snapshot, layer.blob)
            top = snapshots.from_layer(top, layer.blob.descriptor, layer.blob.diff_id).id
        return top

    def _push(self, request: ExportRequest) -> ExportResult:
        from buildkit_py.exporters.registry import RegistryExporter  # noqa: PLC0415

        return RegistryExporter(self._spec, self._store).export(request)

"""OCI layout, as a tar or a directory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import ContentError, UsageError
from buildkit_py.exporters.assembly import Assembly, assemble_images, write_layer_blob
from buildkit_py.exporters.attributes import flag, image_options
from buildkit_py.exporters.base import ExportRequest, ExportResult
from buildkit_py.exporters.destination import open_destination
from buildkit_py.exporters.layout import (
    REF_NAME,
    DirectorySink,
    DockerImage,
    LayoutSink,
    LayoutWriter,
    NamedRoot,
    TarSink,
)
from buildkit_py.oci.descriptor import Descriptor
from buildkit_py.oci.manifest import Index, parse_manifest
from buildkit_py.store.failures import explain_os_errors

if TYPE_CHECKING:
    from buildkit_py.exporters import OutputSpec
    from buildkit_py.exporters.attributes import ImageOptions
    from buildkit_py.store import Store


class OciExporter:
    """`type=oci`: a tar at `dest`, or with `tar=false` a layout directory."""

    kind = "oci"
    docker_files = False

    def __init__(self, spec: OutputSpec, store: Store) -> None:
        self._spec = spec
        self._store = store

    def export(self, request: ExportRequest) -> ExportResult:
        """Write the layout."""
        attributes = self._spec.attributes
        dest = self._spec.destination
        as_tar = flag(attributes, "tar", default=True)
        if not dest or (dest == "-" and not as_tar):
            raise UsageError(f"dest is required for output type {self.kind}", hint="dest=out.tar")
        options = image_options(attributes, request)
        self._check(request)
        if self.docker_files:  # `docker load` has no place for attestations
            plain = tuple(replace(image, attestations=()) for image in request.images)
            request = replace(request, images=plain)
        assembly = assemble_images(self._store, request, options)
        if as_tar:
            with open_destination(request, dest, self.kind) as stream:
                self._write(TarSink(stream), assembly, options, kept=())
        else:
            folder = request.directory / dest
            kept = _entries_kept(folder, options)
            with explain_os_errors(f"cannot write {folder}"):
                folder.mkdir(parents=True, exist_ok=True)
            self._write(DirectorySink(folder), assembly, options, kept=kept)
        return ExportResult(
            descriptor=assembly.descriptor,
            images=tuple(image.exported for image in assembly.images),
            names=tuple(str(name) for name in options.names),
        )

    def _check(self, request: ExportRequest) -> None:
        """Refuse what this type cannot hold."""

    def _write(
        self,
        sink: LayoutSink,
        assembly: Assembly,
        options: ImageOptions,
        *,
        kept: tuple[Descriptor, ...],
    ) -> None:
        writer = LayoutWriter(sink)
        for descriptor, data in assembly.documents():
            writer.add_document(descriptor, data)
        for layer in assembly.layers().values():
            writer.add_blob(layer.descriptor, partial(write_layer_blob, self._store, layer))
        root = NamedRoot(
            descriptor=assembly.descriptor,
            names=options.names,
            created=assembly.images[0].assembled.image.created,
            annotations=options.annotations.of("index-descriptor"),
        )
        images = [
            DockerImage(
                config=image.assembled.config_descriptor.digest,
                layers=tuple(layer.descriptor.digest for layer in image.layers),
                names=options.names,
            )
            for image in assembly.images
        ]
        writer.add_root(root, images if self.docker_files else ())
        writer.finish(kept=kept)


def _entries_kept(folder: Path, options: ImageOptions) -> tuple[Descriptor, ...]:
    """Entries of a layout that is there already, but for those whose names we take."""
    path = folder / "index.json"
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is neither empty nor an OCI layout")
        return ()
    try:
        index = parse_manifest(path.read_bytes())
    except (ContentError, OSError) as error:
        raise ContentError(f"{path} is no OCI index: {error}") from error
    if not isinstance(index, Index):
        raise ContentError(f"{path} is no OCI index")
    taken = {name.tag for name in options.names}
    return tuple(
        entry
        for entry in index.manifests
        if entry.annotations.get(REF_NAME) not in taken and REF_NAME in entry.annotations
    )

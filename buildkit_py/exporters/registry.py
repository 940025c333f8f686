"""To a registry: layers first, each compressed and sent as soon as it is ready, then documents.

A layer that the registry has is neither compressed again nor sent; one that came from another of
its repositories is mounted from there, without being fetched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.errors import UsageError
from buildkit_py.exporters.assembly import Assembly, assemble_images
from buildkit_py.exporters.attributes import flag, image_options
from buildkit_py.exporters.base import ExportRequest, ExportResult
from buildkit_py.exporters.sending import LayerPush, note_pushed, push_document, push_layers
from buildkit_py.oci.descriptor import MediaType
from buildkit_py.oci.reference import Reference

if TYPE_CHECKING:
    from buildkit_py.exporters import OutputSpec
    from buildkit_py.exporters.attributes import ImageOptions
    from buildkit_py.exporters.base import Report
    from buildkit_py.registry.client import RegistryClient
    from buildkit_py.registry.transfer import Progress, TransferStatus
    from buildkit_py.store import Store

_DOCUMENTS = MediaType.MANIFESTS | MediaType.INDEXES


class RegistryExporter:
    """`type=registry`, and `type=image,push=true`."""

    def __init__(self, spec: OutputSpec, store: Store) -> None:
        self._spec = spec
        self._store = store

    def export(self, request: ExportRequest) -> ExportResult:
        """Push the images of all platforms under every name. Raises RegistryError and kin."""
        attributes = self._spec.attributes
        options = image_options(attributes, request)
        if not options.names:
            raise UsageError("tag is needed when pushing to registry", hint="give a name by -t")
        client = open_target(self._spec, request, options)
        snapshots = [
            item.id
            for image in request.images
            for item in self._store.snapshots.chain(image.snapshot)
        ]
        repositories = list(
            dict.fromkeys(replace(name, tag=None, digest=None) for name in options.names)
        )
        how = LayerPush(
            client=client,
            store=self._store,
            variant=options.variant,
            progress=_progress(request.report),
        )
        push_layers(how, repositories, list(dict.fromkeys(snapshots)))
        assembly = assemble_images(self._store, request, options)
        by_digest = flag(attributes, "push-by-digest")
        for name in options.names:
            self._push_documents(client, name, assembly, by_digest=by_digest)
        return ExportResult(
            descriptor=assembly.descriptor,
            images=tuple(image.exported for image in assembly.images),
            names=tuple(str(name) for name in options.names),
        )

    def _push_documents(
        self, client: RegistryClient, name: Reference, assembly: Assembly, *, by_digest: bool
    ) -> None:
        from buildkit_py.registry.transfer import memory_blob, push_blob  # noqa: PLC0415

        repository = replace(name, tag=None, digest=None)
        for descriptor, data in assembly.documents():
            if descriptor.media_type not in _DOCUMENTS:
                push_blob(client, repository, memory_blob(data, descriptor))
                continue
            named = descriptor.digest == assembly.descriptor.digest and not by_digest
            place = name if named else replace(repository, digest=descriptor.digest)
            push_document(client, place, data, descriptor)
        for image in assembly.images:
            note_pushed(
                self._store,
                repository,
                (assembly.descriptor, image.exported.manifest),
                image.exported.config,
            )


def open_target(spec: OutputSpec, request: ExportRequest, options: ImageOptions) -> RegistryClient:
    """A client for the registries that an output names."""
    from buildkit_py.registry import open_client  # noqa: PLC0415

    insecure = list(request.insecure_registries)
    if flag(spec.attributes, "registry.insecure"):
        insecure += [name.domain for name in options.names]
    return open_client(request.environment, insecure=insecure)


def _progress(report: Report) -> Progress:
    def progress(status: TransferStatus) -> None:
        report(f"{status.action} {status.id}", status.current, status.total)

    return progress

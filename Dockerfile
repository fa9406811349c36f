# The images of Rockpool: `--target controller` and `--target node`. `make image` builds, measures and runs both with buildah.
#
# Each holds one static binary, the CycloneDX file of what went into it, and nothing that it does not run: no shell, no package manager. The
# bases of the stages that build are arguments: by default public ones, in `make image` ones made of Debian's packages.
ARG BUILD_BASE=rust:1.95-bookworm
ARG NODE_BASE=debian:bookworm-slim

# --- the binary -------------------------------------------------------------------------------------------------------
FROM ${BUILD_BASE} AS build
# ring has C in it: for musl it is compiled by musl-gcc. A base that has it and the target already is left as it is.
ARG MUSL_TOOLS=1.2.3-1
# cargo-auditable: kept by the Rust Secure Code working group; the list of crates lies in the binary itself, where trivy, grype and syft read it.
ARG CARGO_AUDITABLE=0.7.7
RUN { command -v musl-gcc >/dev/null \
      || { apt-get update -qq && apt-get install -qq -y --no-install-recommends "musl-tools=$MUSL_TOOLS" && rm -rf /var/lib/apt/lists/*; }; } \
    && { [ -d "$(rustc --print sysroot)/lib/rustlib/$(uname -m)-unknown-linux-musl" ] || rustup target add "$(uname -m)-unknown-linux-musl"; } \
    && cargo install --quiet --locked --root /usr/local --version "$CARGO_AUDITABLE" cargo-auditable
WORKDIR /src

# The dependencies: a layer that only a change of Cargo.toml or Cargo.lock makes anew. What stands for our own code goes with it.
COPY Cargo.toml Cargo.lock deploy/image/cargo.sh ./
RUN mkdir src && echo 'fn main() {}' | tee build.rs > src/main.rs && touch src/lib.rs \
    && ./cargo.sh build && ./cargo.sh clean --package rockpool && rm -r src build.rs cargo.sh

COPY . ./
RUN deploy/image/cargo.sh build --offline \
    && install -D -m 0755 "target/$(uname -m)-unknown-linux-musl/release/rockpool" /out/usr/bin/rockpool \
    && mkdir -p /out/usr/share/sbom \
    && deploy/image/crates.sh | deploy/image/sbom.sh rockpool > /out/usr/share/sbom/rockpool.cdx.json \
    && mkdir -p /out/etc/rockpool /out/run /out/var/lib && install -d -m 1777 /out/tmp && rm -r target

# --- the programs of a node ---------------------------------------------------------------------------------------------
FROM ${NODE_BASE} AS programs
# What mkfs writes is what the kernels of nodes must mount: these versions change on purpose, never by a rebuild.
ARG E2FSPROGS=1.47.0-2+b2
ARG XFSPROGS=6.1.0-1
RUN apt-get update -qq \
    && apt-get install -qq -y --no-install-recommends ca-certificates "e2fsprogs=$E2FSPROGS" "xfsprogs=$XFSPROGS"
COPY deploy/image deploy/image
RUN deploy/image/programs.sh /out mke2fs e2fsck resize2fs mkfs.xfs xfs_repair

# --- the images ---------------------------------------------------------------------------------------------------------
FROM scratch AS node
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rockpool-node" \
      org.opencontainers.image.description="Rockpool on a node: its pools, and CSI for kubelet" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-only AND LGPL-2.1-or-later" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=programs /out/ /
COPY --from=build /out/ /
ENV PATH=/usr/sbin:/usr/bin
ENTRYPOINT ["/usr/bin/rockpool"]
CMD ["node"]

FROM scratch AS controller
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rockpool-controller" \
      org.opencontainers.image.description="Rockpool's controller: the CSI of a cluster, without pools" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /out/ /
ENV PATH=/usr/bin
USER 65532:65532
ENTRYPOINT ["/usr/bin/rockpool"]
CMD ["controller"]

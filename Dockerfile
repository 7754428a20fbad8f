# docker build -t halutd . && docker run --rm -p 8080:8080 halutd
ARG DEBIAN=bookworm
FROM debian:${DEBIAN}-slim AS build
WORKDIR /src
COPY Makefile ./
COPY rtl/rtl.mk rtl/
COPY deploy/packages.sh deploy/
RUN deploy/packages.sh make && make deps
COPY . .
# The reference BLAS serves as well as OpenBLAS for the one factorisation that learning does, and is 30 MB smaller.
RUN make -j"$(nproc)" BLAS_LIBS="-llapacke -llapack -lblas" PREFIX=/usr DESTDIR=/out install \
 && strip /out/usr/bin/halut /out/usr/sbin/halutd

FROM debian:${DEBIAN}-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="halutd" \
      org.opencontainers.image.description="Serves learned lookup-table models over HTTP" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      libmicrohttpd12 libgnutls30 libuv1 libjansson4 \
      libspng0 libjpeg62-turbo liblapacke liblapack3 libblas3 libstdc++6 \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin \
 && groupadd -r -g 10001 halutd \
 && useradd -r -u 10001 -g halutd -d /nonexistent -s /usr/sbin/nologin halutd
COPY --from=build /out /
COPY deploy/sbom.sh /usr/share/halut/
RUN /usr/share/halut/sbom.sh "$VERSION" >/usr/share/halut/sbom.spdx.json && rm /usr/share/halut/sbom.sh
# Where it listens and what it serves; every flag of `halutd --help` is such a variable.
ENV HALUTD_LISTEN=0.0.0.0:8080 HALUTD_MODELS=/usr/share/halut/models
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=10s --start-period=10s --retries=3 \
  CMD ["/usr/sbin/halutd", "--health", "http://127.0.0.1:8080/healthz"]
ENTRYPOINT ["/usr/sbin/halutd"]

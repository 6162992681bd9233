# syntax=docker/dockerfile:1
ARG BUILDER=golang:1.26
FROM --platform=${BUILDPLATFORM:-linux/amd64} ${BUILDER} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
ARG COMMIT=unknown
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} GOFLAGS=-buildvcs=false \
    go build -trimpath -tags grpcnotrace -ldflags "-s -w -buildid= -X token-sidecar/internal/app.version=${VERSION} -X token-sidecar/internal/app.commit=${COMMIT}" -o /out/token-sidecar .

# Nothing but the program and the certificates of public authorities: no shell, no package to patch.
FROM scratch
ARG VERSION=dev
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="token-sidecar" \
      org.opencontainers.image.description="Vends Human API tokens to the containers of its own pod" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/token-sidecar /token-sidecar
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/token-sidecar"]

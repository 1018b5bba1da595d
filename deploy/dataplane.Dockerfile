# The data plane: the static binary that the flows were tested with, and nothing to run beside it.
# scripts/image makes the build context: `sluice` and `ca-certificates.crt`.
FROM scratch
# Brokers with certificates of public authorities; librdkafka probes this path.
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY sluice /sluice
USER 65532:65532
ENTRYPOINT ["/sluice"]

# The operator: one static binary. It speaks to the API server alone, whose authority every pod has mounted.
# scripts/image makes the build context: `sluice-operator`.
FROM scratch
COPY sluice-operator /sluice-operator
USER 65532:65532
ENTRYPOINT ["/sluice-operator"]

//! Certificates of a test process: one authority, certificates it signed, and one nobody trusts.

use std::path::PathBuf;
use std::sync::OnceLock;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

use crate::process;

/// A certificate and its key, PEM; the key is PKCS#8.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// The authority and what it signed.
#[derive(Debug)]
pub struct Bundle {
    /// The authority's certificate, PEM.
    pub ca: String,
    /// `localhost`, `127.0.0.1`, `::1`.
    pub server: Identity,
    /// A client called `client-alice`.
    pub client: Identity,
    /// A client called `rogue`, signed by an authority that nobody trusts.
    pub rogue: Identity,
    /// `ca.pem` for those who read files.
    pub ca_file: PathBuf,
    /// Key and certificate of the server in one file, as Kafka's PEM key store wants it.
    pub server_file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// The bundle of this process.
pub fn bundle() -> &'static Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(Bundle::new)
}

impl Bundle {
    fn new() -> Self {
        let (ca, issuer) = authority("sluice tests");
        let server = sign(&issuer, "localhost", &["localhost", "127.0.0.1", "::1"]);
        let client = sign(&issuer, "client-alice", &["client-alice"]);
        let (_, stranger) = authority("nobody's");
        let rogue = sign(&stranger, "rogue", &["rogue"]);
        let directory = process::directory("certs");
        let ca_file = directory.join("ca.pem");
        let server_file = directory.join("server.pem");
        std::fs::write(&ca_file, &ca).expect("a file can be written");
        std::fs::write(&server_file, format!("{}{}", server.key, server.certificate))
            .expect("a file can be written");
        Self { ca, server, client, rogue, ca_file, server_file, issuer }
    }

    /// Another certificate for the same server names: what a rotation brings.
    pub fn another_server(&self) -> Identity {
        self.server_called(&["localhost", "127.0.0.1", "::1"])
    }

    /// A certificate for a server of these names and addresses.
    pub fn server_called(&self, names: &[&str]) -> Identity {
        sign(&self.issuer, "server", names)
    }
}

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut params = named(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key can be made");
    let certificate = params.self_signed(&key).expect("an authority signs itself");
    (certificate.pem(), Issuer::new(params, key))
}

fn sign(issuer: &Issuer<'static, KeyPair>, name: &str, names: &[&str]) -> Identity {
    let mut params = named(name, names);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("a key can be made");
    let certificate = params.signed_by(&key, issuer).expect("an authority signs");
    Identity { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn named(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("valid names");
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params
}

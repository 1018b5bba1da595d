//! The certificate of the HTTPS listener, from a Secret of the same files.

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sluice_dataplane::TlsMaterial;
use sluice_operator::Objects;
use sluice_operator::dereference::Secrets;
use sluice_operator::validate::value;

use super::ObjectName;

/// The certificate and key of the Secret; the error says what to do.
pub fn material(objects: &Objects, name: &ObjectName) -> Result<TlsMaterial, String> {
    let ObjectName { namespace, name } = name;
    let secret =
        Secrets::of(objects).find(namespace, name).map_err(|error| error.message(namespace, name))?;
    let part = |key: &str| {
        let bytes = value(secret, key).map(<[u8]>::to_vec);
        bytes.ok_or_else(|| format!("Secret `{name}` has no key `{key}`; add it"))
    };
    let material = TlsMaterial { certificate: part("tls.crt")?, key: part("tls.key")? };
    check(&material).map_err(|problem| format!("Secret `{name}`: {problem}"))?;
    Ok(material)
}

fn check(material: &TlsMaterial) -> Result<(), String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&material.certificate).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or("`tls.crt` is not a PEM certificate")?;
    let key =
        PrivateKeyDer::from_pem_slice(&material.key).map_err(|_| "`tls.key` is not a PEM private key")?;
    CertifiedKey::from_der(chain, key, &default_provider())
        .map_err(|error| format!("`tls.crt` and `tls.key` do not work together: {error}"))?;
    Ok(())
}

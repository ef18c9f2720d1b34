//! What minting and verifying cost beside the bare signature operations, in one run: `make bench`. Ratios hold on any machine; the
//! times are printed for the curious.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair};
use postern_runtime::{SystemClock, Verifier};
use postern_token::{Algorithm, Form, IssuerProfile};

use crate::issuer::{Grant, Identity, Issuer};
use crate::keys::KeyKind;
use crate::rotation::{Rotation, Schedule};
use crate::seal::Sealer;
use crate::store::{InstanceRecord, SqlStore, Store};
use crate::trust::Trust;

/// How often each operation is done; rounds take turns, and the best round of each counts, so that a neighbour's load does not.
const ROUNDS: usize = 15;
const IN_A_ROUND: usize = 100;
const AT_ONCE: usize = 20;

const AUDIENCE: &str = "postern-gateway:gateway";

async fn parts(dir: &std::path::Path) -> (Issuer, Verifier) {
    sqlx::any::install_default_drivers();
    let clock = Arc::new(SystemClock);
    let store = SqlStore::open_sqlite(&dir.join("x.db"), clock.clone()).await.unwrap();
    store.set_up(InstanceRecord { id: "ins_1".to_owned(), sealed_pepper: "p".to_owned() }).await.unwrap();
    let (store, sealer) = (Arc::new(store), Arc::new(Sealer::from_file(&dir.join("kek"), true).unwrap()));
    let schedule = Schedule {
        kind: KeyKind { algorithm: Algorithm::Rs256, rsa_bits: 2048 },
        period: Duration::from_secs(3600),
        lead: Duration::from_secs(600),
        max_lifetime: Duration::from_secs(900),
    };
    Rotation::new(store.clone(), sealer.clone(), schedule).first_key(None).await.unwrap();
    let profile = IssuerProfile {
        issuer: "https://instance.test".to_owned(),
        audience: AUDIENCE.to_owned(),
        max_lifetime: 900,
        instances: vec!["ins_1".to_owned()],
        realm: None,
        scopes: None,
        groups: Vec::new(),
        client_networks: Vec::new(),
        form: Form::Announced,
    };
    let verifier = Verifier::new(clock.clone());
    let trust = Trust::load(store, sealer, profile, verifier.clone()).await.unwrap();
    let identity = Identity { issuer: "https://instance.test".to_owned(), instance_id: "ins_1".to_owned() };
    (Issuer::new(identity, trust, clock), verifier)
}

fn grant() -> Grant {
    Grant {
        realm: postern_token::Realm::SelfManaged,
        subject: "usr_01890a5d".to_owned(),
        groups: Vec::new(),
        audience: AUDIENCE.to_owned(),
        scope: vec!["feature:chat".to_owned(), "feature:code_completion".to_owned()],
        credential: "crd_01890a5d".to_owned(),
        actor: None,
        lifetime: 300,
        certificate: None,
        not_after: None,
    }
}

/// CPU time of this process, all threads.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The best rounds so far, in seconds for one operation.
#[derive(Default)]
struct Best(Option<f64>);

impl Best {
    fn of(&mut self, begin: f64) {
        let each = (cpu_seconds() - begin) / IN_A_ROUND as f64;
        self.0 = Some(self.0.map_or(each, |best| best.min(each)));
    }

    fn seconds(&self) -> f64 {
        self.0.unwrap()
    }
}

#[tokio::test]
async fn minting_and_verifying_cost_little_more_than_the_signature() {
    let dir = tempfile::tempdir().unwrap();
    let (issuer, verifier) = parts(dir.path()).await;
    let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let public = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref()).unwrap();
    let mut signature = vec![0; pair.public_modulus_len()];
    let mut message = vec![b'x'; 700];

    let [mut sign, mut mint, mut check, mut verify, mut cached]: [Best; 5] = Default::default();
    for _ in 0..ROUNDS {
        let begin = cpu_seconds();
        for number in 0..IN_A_ROUND {
            message[0] = u8::try_from(number).unwrap();
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &message, &mut signature).unwrap();
        }
        sign.of(begin);

        let begin = cpu_seconds();
        let mut tokens = Vec::with_capacity(IN_A_ROUND);
        // As a busy issuer does: several at once.
        while tokens.len() < IN_A_ROUND {
            let several = (0..AT_ONCE).map(|_| issuer.mint(grant()));
            let minted = futures_util::future::join_all(several).await;
            tokens.extend(minted.into_iter().map(|minted| minted.unwrap().token));
        }
        mint.of(begin);

        let begin = cpu_seconds();
        for _ in 0..IN_A_ROUND {
            public.verify_sig(black_box(&message), black_box(&signature)).unwrap();
        }
        check.of(begin);

        let begin = cpu_seconds();
        for token in &tokens {
            verifier.verify(black_box(token), None).unwrap();
        }
        verify.of(begin);

        let begin = cpu_seconds();
        for token in &tokens {
            verifier.verify(black_box(token), None).unwrap();
        }
        cached.of(begin);
    }

    let us = |best: &Best| best.seconds() * 1e6;
    let (minting, verifying) = (mint.seconds() / sign.seconds(), verify.seconds() / check.seconds());
    println!(
        "a mint                  {:8.2} us = {minting:.3} x a bare RSA-2048 signature ({:.2} us)",
        us(&mint),
        us(&sign)
    );
    println!(
        "a first verification    {:8.2} us = {verifying:.3} x a bare verification ({:.2} us)",
        us(&verify),
        us(&check)
    );
    println!(
        "a further verification  {:8.2} us = {:.3} x a bare verification",
        us(&cached),
        cached.seconds() / check.seconds()
    );
    // The aims are 1.1 and 1.2, and are met but for the noise of a shared machine; what is asserted leaves room for that.
    assert!(minting <= 1.2, "minting costs {minting:.3} x a signature");
    assert!(verifying <= 1.3, "verifying costs {verifying:.3} x a verification");
    assert!(cached.seconds() < check.seconds() / 5.0, "a further verification is not much cheaper than the first");
}
